"""Greedy answers to many questions over one shared prefix, and the times they rest on.

A batch of questions stands behind one copy of the prefix; only their own keys and values are
added, and dropped with the answer, so a question leaves no trace.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.decoding import Decoder
from batch.answering.evidence import (
    NEUTRAL,
    cell_evidence,
    end_of,
    named_samples,
    sample_evidence,
    sample_spans,
    time_ranges,
)
from batch.errors import BatchError
from batch.kv import LastQueries, Observer, Paid, Prefix, TieredCache
from batch.models import Family
from batch.video import TimeRange
from cachefmt import STORED_TIERS, CacheFile

Turns = str | tuple[str, ...]
"""A question; or question, answer, question, and so on, up to the question to be answered."""

Cells = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question, the last of a conversation."""

    question: str
    text: str
    tokens: int
    """Tokens generated, the end of the answer included."""
    complete: bool
    """False if the most tokens of an answer cut it off."""
    evidence: tuple[TimeRange, ...]
    """The times of the video that it rests on."""
    cells: Cells = field(default_factory=dict, compare=False, repr=False)
    """Of the samples of these times, by their numbers in the manifest, the evidence of each cell,
    [cells], as of `cell_evidence`; where all of a file was asked."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by the names that `batch answer --json` prints: `text` is "answer"."""
        names = {"text": "answer", "cells": None}
        return asdict(
            self,
            dict_factory=lambda values: {
                name: value for key, value in values if (name := names.get(key, key)) is not None
            },
        )


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question and its answer in tokens; the end of the answer is one of them."""

    question_ids: list[int]
    answer_ids: list[int]
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class RowSamples:
    """Which sample each row of a prefix is of."""

    number: Tensor
    """Int [rows]; -1 is text outside samples."""
    spans_s: NDArray[np.float64]
    """The time that each sample stands for, as of `sample_spans`, [samples, 2]."""
    cell: NDArray[np.int32] | None = None
    """Which cell of its sample, int [rows]; -1 is text or a separator. None: not asked for."""
    cells: int = 0
    """Of a sample, stored or not."""
    first: int = 0
    """Number of the first sample in the manifest."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What an answer rests on: times, and cells as of `Answer`."""

    times: Sequence[TimeRange] = ()
    cells: Cells = field(default_factory=dict)


class PrefixAnswerer:
    """Answers questions over a prefix in memory, wherever it came from."""

    def __init__(
        self,
        prefix: Prefix,
        family: Family,
        *,
        next_position: tuple[int, ...],
        name: str,
        samples: RowSamples | None = None,
    ) -> None:
        """Use a filled prefix with the loaded model whose keys and values it holds.

        Args:
            next_position: of a question's first token, one number per axis.
            name: what errors call the prefix.
            samples: without them answers rest on no times.
        """
        self._prefix = prefix
        self._family = family
        self._device = family.device
        self._decoder = Decoder(prefix, family, next_position=next_position)
        self._next_position = next_position
        self._name = name
        self._samples = samples
        self._neutral: Paid | None = None
        self._last_queries = LastQueries(0, 0)

    @classmethod
    def of_cache(cls, cache: CacheFile, family: Family, end_s: float | None = None) -> Self:
        """Use all of a cache file, which may be closed then, with the model that wrote it.

        Args:
            end_s: until when the last sample is on screen; None: as long as others usually are.

        Raises:
            CacheFileError: names the block that is damaged, or the calibration that is missing.
        """
        tables, shape = cache.tables, cache.header.shape
        end_s = end_of(tables.time_s) if end_s is None else end_s
        rows = np.concatenate([tables.rows(tier) for tier in STORED_TIERS])
        return cls(
            Prefix.load(cache, family.layer_devices, family.rotation),
            family,
            next_position=cache.header.layout.next_position,
            name=str(cache.path),
            samples=RowSamples(
                number=torch.from_numpy(tables.sample[rows]),
                spans_s=sample_spans(tables.time_s, tables.source, end_s),
                cell=tables.cell[rows],
                cells=shape.rows * shape.columns,
                first=cache.header.segment.first_sample,
            ),
        )

    def ask_all(
        self, questions: Iterable[Turns], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> Iterator[Answer]:
        """The answers that `converse` gives."""
        for exchange in self.converse(
            questions, max_new_tokens=max_new_tokens, batch_size=batch_size
        ):
            yield exchange.answer

    def converse(
        self, questions: Iterable[Turns], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> Iterator[Exchange]:
        """Answer questions in order, a batch at a time.

        Raises:
            BatchError: a question cannot be asked, or does not fit the context with its answer.
        """
        asked = list(questions)
        ids = [question_ids(self._family, question) for question in asked]
        self._check_room(max(map(len, ids), default=0) + max_new_tokens)
        for first in range(0, len(asked), batch_size):
            batch = slice(first, first + batch_size)
            for question, its_ids, (tokens, seen) in zip(
                asked[batch], ids[batch], self._answer(ids[batch], max_new_tokens), strict=True
            ):
                answer = self._answer_of(question, tokens, seen)
                yield Exchange(question_ids=its_ids, answer_ids=tokens, answer=answer)

    def stream(
        self, questions: Sequence[Turns], limits: Sequence[int]
    ) -> Iterator[tuple[int, str | Answer]]:
        """Answer questions together; gives the number of one and more of its text as it comes.

        Behind the text of all come their answers, with the times that they rest on. A conversation
        that goes on, asked on its own, is not computed again.

        Args:
            limits: most tokens of each answer.

        Raises:
            BatchError: as of `converse`.
        """
        ids = [question_ids(self._family, question) for question in questions]
        self._check_room(max(len(one) + limit for one, limit in zip(ids, limits, strict=True)))
        observer = self._observer(len(ids), max(limits))
        answers: list[list[int]] = [[] for _ in ids]
        shown = [""] * len(ids)
        for chosen in self._decoder.steps(ids, limits, observer, may_follow=True):
            for number, tokens in enumerate(chosen):
                answers[number] += tokens
                text = self._text(answers[number]) if tokens else shown[number]
                text = text.rstrip("\ufffd")  # a character that is perhaps not whole yet
                if rest := _rest(text, shown[number]):
                    yield number, rest
                    shown[number] = text
        for number, tokens in enumerate(answers):
            if rest := _rest(self._text(tokens), shown[number]):  # nothing makes it whole now
                yield number, rest
        for number, seen in enumerate(self._seen(answers, observer)):
            yield number, self._answer_of(questions[number], answers[number], seen)

    def generate(
        self, questions: list[list[int]], max_new_tokens: int, observer: Observer | None = None
    ) -> list[list[int]]:
        """Continue each question's token ids greedily up to a stop token, which is included.

        The observer is shown the queries behind which each token is chosen.
        """
        return self._decoder.generate(questions, [max_new_tokens] * len(questions), observer)

    @torch.inference_mode()
    def next_token_scores(self, question: str) -> Tensor:
        """Scores of the first token of the answer, float32 [vocabulary]."""
        step, place, padding = self._decoder.padded([question_ids(self._family, question)])
        hidden = self._decoder.hidden(step, place, TieredCache(self._prefix), padding)
        return self._decoder.scores(hidden)[0].float()

    @torch.inference_mode()
    def log_likelihoods(self, exchanges: Sequence[Exchange]) -> list[float]:
        """How likely this prefix makes answers, whoever gave them, in one batch.

        Natural logarithm of the probability of a token, a mean over each answer.
        """
        rows = [[*one.question_ids, *one.answer_ids[:-1]] for one in exchanges]
        step, place, padding = self._decoder.padded(rows)
        hidden = self._decoder.hidden(step, place, TieredCache(self._prefix), padding)
        found = []
        for states, exchange in zip(hidden, exchanges, strict=True):  # scores of all would be large
            answer = torch.tensor(exchange.answer_ids, device=self._device)
            scores = self._family.logits(states[-len(answer) :]).float().log_softmax(-1)
            found.append(float(scores.gather(1, answer[:, None]).mean()))
        return found

    def attention(
        self, questions: list[list[int]], limits: Sequence[int]
    ) -> tuple[list[list[int]], Paid]:
        """Answer, and measure what attention the tokens of each answer pay to each sample and row.

        limits: most tokens of each answer, over which the attention is a mean; pointers get none.
        """
        if self._samples is None:
            raise ValueError(f"{self._name}: the samples of its rows are not known")
        observer = self._observer(len(questions), max(limits))
        answers = self._decoder.generate(questions, limits, observer)
        return answers, self._paid(answers, self._samples, observer)

    def _answer(
        self, questions: list[list[int]], max_new_tokens: int
    ) -> Iterator[tuple[list[int], _Seen]]:
        limits = [max_new_tokens] * len(questions)
        if self._samples is None:
            yield from ((ids, _Seen()) for ids in self._decoder.generate(questions, limits))
            return
        asked = questions
        if self._neutral is None:  # asked beside the first questions, so it costs no pass
            asked, limits = [*questions, self._family.question_ids(NEUTRAL)], [*limits, 1]
        answers, found = self.attention(asked, limits)
        neutral = self._neutral = self._neutral or Paid(*(one[-1] for one in found))
        for tokens, *paid in zip(answers[: len(questions)], *found, strict=False):
            yield tokens, self._rests_on(Paid(*paid), neutral, self._samples)

    def _seen(self, answers: list[list[int]], observer: LastQueries) -> Iterator[_Seen]:
        """What answers that an observer saw rest on."""
        if self._samples is None:
            yield from (_Seen() for _ in answers)
            return
        paid = self._paid(answers, self._samples, observer)  # before the observer sees others
        if self._neutral is None:
            _, found = self.attention([self._family.question_ids(NEUTRAL)], [1])
            self._neutral = Paid(*(one[0] for one in found))
        for one in zip(*paid, strict=True):
            yield self._rests_on(Paid(*one), self._neutral, self._samples)

    def _rests_on(self, paid: Paid, neutral: Paid, samples: RowSamples) -> _Seen:
        """What one answer rests on, by what it and a neutral question attend to."""
        evidence = sample_evidence(paid.groups.numpy(), neutral.groups.numpy())
        times = time_ranges(evidence, samples.spans_s)
        if samples.cell is None:
            return _Seen(times=times)
        number, cells = samples.number.numpy(), {}
        for sample in named_samples(evidence).tolist():
            rows = np.flatnonzero((number == sample) & (samples.cell >= 0))
            cells[samples.first + sample] = np.zeros(samples.cells, np.float32)
            cells[samples.first + sample][samples.cell[rows]] = cell_evidence(
                paid.rows.numpy()[rows], neutral.rows.numpy()[rows]
            )
        return _Seen(times=times, cells=cells)

    def _observer(self, sequences: int, passes: int) -> LastQueries:
        """One that a batch of this shape was perhaps set up with."""
        if self._last_queries.shape != (sequences, passes):
            self._last_queries = LastQueries(sequences, passes)
        return self._last_queries

    def _paid(self, answers: list[list[int]], samples: RowSamples, observer: LastQueries) -> Paid:
        lengths = [len(answer) for answer in answers]
        return observer.paid(self._prefix, lengths, samples.number, groups=len(samples.spans_s))

    def _check_room(self, needed: int) -> None:
        room = self._family.decoder.context - max(self._next_position)
        if needed > room:
            raise BatchError(
                f"{self._name}: a question and its answer may take {needed} positions, but the "
                f"model's context has {room} left; lower --max-new-tokens or ask more briefly"
            )

    def _text(self, tokens: list[int]) -> str:
        decode = self._family.checkpoint.tokenizer.decode
        text: str = decode(tokens, skip_special_tokens=True).strip()
        return text

    def _answer_of(self, question: Turns, tokens: list[int], seen: _Seen) -> Answer:
        return Answer(
            question=question if isinstance(question, str) else question[-1],
            text=self._text(tokens),
            tokens=len(tokens),
            complete=tokens[-1] in self._family.stop_ids,
            evidence=tuple(seen.times),
            cells=seen.cells,
        )


def _rest(text: str, shown: str) -> str:
    """What goes on behind what was shown of a text; nothing if that has changed."""
    return text[len(shown) :] if text.startswith(shown) else ""


def question_ids(family: Family, question: Turns) -> list[int]:
    """Token ids of a question behind the prefix; a BatchError if it cannot be asked."""
    turns = (question,) if isinstance(question, str) else question
    for number, said in enumerate(turns):
        if not said.strip() and number % 2 == 0:
            raise BatchError("a question is empty; give it with -q, or one per line of stdin")
        if control := family.control_tokens(said):
            raise BatchError(
                f"a question holds {', '.join(map(repr, control))}, which the model takes for "
                f"marks of its own; write it another way: {said!r}"
            )
    try:
        return family.question_ids(*turns)
    except TemplateError as error:
        raise BatchError(
            f"{family.checkpoint.name}: its chat template refuses the conversation: {error}"
        ) from error
