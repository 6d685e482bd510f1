"""Methods run over question sets: what each stored of each video, and what it answered."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.evaluation.budgets import sample_kv_bytes
from batch.evaluation.data import Question
from batch.evaluation.measuring import peak_allocated
from batch.evaluation.methods import Method
from batch.evaluation.scoring import is_right, prompt
from batch.evaluation.storing import PreparedVideo, Stored, store_uncompressed
from batch.settings import Limit
from cachefmt.tiers import Tier

CELL_STATES = (*(tier.name for tier in Tier), "POINTER")
"""What can become of a cell; all cells of a sample that is not stored are POINTER."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a row of a table is called by."""

    method: str
    profile: str | None = None
    budget: str | None = None

    @classmethod
    def of(cls, method: Method, limit: Limit | None) -> Self:
        """Of a method within a limit."""
        budget = None if limit is None else f"{limit} {limit.unit}"
        return cls(method=method.name, profile=method.profile, budget=budget)

    def __str__(self) -> str:
        return " ".join(part for part in (self.method, self.profile, self.budget) if part)


UNCOMPRESSED = Label(method="uncompressed")
NO_VIDEO = Label(method="no video")
"""The uncompressed model before a grey video: what it gets right without seeing."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method as it enters a comparison."""

    method: Method
    limit: Limit | None = None

    @property
    def label(self) -> Label:
        return Label.of(self.method, self.limit)


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question, its truth, the answer of the uncompressed model, and that of a method."""

    question: Question
    reference: str
    answer: str
    kl: float | None
    """Of the first answer token's distribution against the uncompressed model's, in nats."""
    nll_rise: float | None = None
    """By how much the true token's negative log-likelihood rose, nats; of text."""

    @property
    def is_right(self) -> bool:
        return is_right(self.answer, self.question.answer, self.question.options)

    @property
    def is_reference_right(self) -> bool:
        return is_right(self.reference, self.question.answer, self.question.options)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one video, or on one text.

    - kind, in_file: as of the method; None where it ran elsewhere.
    - data: name of the question set. fp16_bytes: K and V of all slots. samples: 0 of text.
    - seconds: None of text. parts: seconds by the names of `PARTS`; tokens: stored ones by tier;
      both None of text and where a method ran elsewhere. computed: tokens that entered the
      language model, of methods that choose cells.
    - cell_states: cells of each sample by CELL_STATES, [samples, 5]; sample_bytes: K and V of
      each sample, [samples]; both None for methods that choose no cells.
    - peak_bytes: of prefill, above the weights; measured on the first video only.
    """

    label: Label
    kind: str | None
    in_file: bool | None
    data: str
    video: str
    samples: int
    fp16_bytes: int
    slots: int
    size_bytes: int
    kv_bytes: int
    answers: tuple[AnsweredQuestion, ...]
    seconds: float | None = None
    parts: dict[str, float] | None = None
    tokens: dict[str, int] | None = None
    computed: int | None = None
    cell_states: NDArray[np.int64] | None = None
    sample_bytes: NDArray[np.int64] | None = None
    peak_bytes: int | None = None


class Maker(NamedTuple):
    """What is to be done with a video; kind and in_file are as of a method."""

    store: Callable[[], Stored]
    kind: str
    in_file: bool


Makers = Mapping[Label, Maker]
"""What is to be done with a video, each by what its row is called."""


def run_video(
    data: str,
    video: PreparedVideo,
    questions: list[Question],
    makers: Makers,
    *,
    has_peak: bool = False,
) -> Iterator[Run]:
    """Ask the uncompressed model about a video, and what each maker stores of it.

    has_peak: whether the memory of each is measured, by doing it once more.
    """
    reference: _Replies | None = None
    uncompressed = Maker(partial(store_uncompressed, video), "whole", True)
    makers = {UNCOMPRESSED: uncompressed, **makers}
    for label, make in makers.items():
        try:
            stored = make.store()
            replies = _ask(stored, questions)
        except BatchError as error:
            raise BatchError(f"{video.path.name}, {label}: {error}") from error
        reference = reference or replies
        plan = stored.plan
        yield Run(
            label=label,
            kind=make.kind,
            in_file=make.in_file,
            data=data,
            video=video.path.name,
            samples=len(video.pictures),
            fp16_bytes=video.full_plan.header.fp16_kv_bytes,
            slots=video.full_plan.plan.slots,
            size_bytes=stored.size_bytes,
            kv_bytes=stored.kv_bytes,
            seconds=sum(stored.seconds.values()),
            parts=stored.seconds,
            tokens=stored.tokens,
            computed=None if plan is None else plan.header.layout.computed,
            cell_states=None if plan is None else _cell_states(plan.manifest),
            sample_bytes=None if plan is None else sample_kv_bytes(plan),
            peak_bytes=peak_allocated(make.store) if has_peak else None,
            answers=_compare(questions, reference, replies),
        )


def _cell_states(manifest: Manifest) -> NDArray[np.int64]:
    states = np.where(manifest.kept[:, None], manifest.tier, len(Tier))
    return np.stack([np.bincount(one, minlength=len(CELL_STATES)) for one in states])


class _Replies(NamedTuple):
    """Answers, and the log-probabilities [questions, vocabulary] of their first tokens."""

    answers: list[str]
    first: Tensor


def _ask(stored: Stored, questions: Sequence[Question]) -> _Replies:
    prompts = [prompt(question.question, question.options) for question in questions]
    replies = stored.answerer.ask_all(prompts)
    answers = [reply if isinstance(reply, str) else reply.text for reply in replies]
    scores = torch.stack([stored.answerer.next_token_scores(text) for text in prompts])
    return _Replies(answers, scores.log_softmax(-1))


def _compare(
    questions: Sequence[Question], reference: _Replies, replies: _Replies
) -> tuple[AnsweredQuestion, ...]:
    kl = (reference.first.exp() * (reference.first - replies.first)).sum(-1).tolist()
    each = zip(questions, reference.answers, replies.answers, kl, strict=True)
    return tuple(
        AnsweredQuestion(question=question, reference=own, answer=answer, kl=divergence)
        for question, own, answer, divergence in each
    )
