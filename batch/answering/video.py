"""Questions about one video, whatever its cache is: a file or a folder of segments."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Self

import numpy as np

from batch.answering.answerer import Answer, PrefixAnswerer, Turns
from batch.answering.evidence import end_of
from batch.answering.opening import check_fits, open_checked, open_writer, resolve
from batch.answering.retrieval import SHARES, RetrievedAnswer, Retriever
from batch.kv.rotation import why_fixed
from batch.models import Family
from batch.settings import AnswerSettings, Attention, WriterSettings
from batch.video import TimeRange
from cachefmt import CacheFile

_DEFAULTS = AnswerSettings()


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What the cache cost before the first question, and what it saved."""

    load_seconds: float
    """Opening, and of scope "whole" reading and decoding all rows, of "retrieve" the index."""
    load_bytes: int
    """Size of all files; of scope "retrieve" only what is read of them before any question."""
    reencode_seconds: float
    """What analysis, encoding and prefill took when the file was written."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one segment of a video answers."""

    segment: int
    time: TimeRange
    """Of the whole segment."""
    text: str
    complete: bool
    evidence: tuple[TimeRange, ...]
    likelihood: float
    """Natural logarithm of the probability of a token, a mean over the answer's."""


@dataclass(frozen=True, kw_only=True)
class ChosenAnswer(Answer):
    """The answer of the segment that makes it likeliest, and what all of them answer."""

    candidates: tuple[Candidate, ...]
    """In order of time."""


def open_cache(
    path: str | Path,
    *,
    settings: AnswerSettings = _DEFAULTS,
    model: str | Family | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attention: Attention = "auto",
    offline: bool = False,
) -> "VideoAnswerer":
    """Open the cache of a video for questions, with the model that wrote it.

        with open_cache("caches/video.safetensors") as video:
            print(video.ask("What colour is the car?").text)

    Args:
        path: a cache file, or a folder of segments.
        model: where that model is, or itself, loaded, to which the other arguments do not apply;
            None is where it was when the cache was written.
        dtype: floating point type to run in; None is the one of the prefill.
        device, attention, offline: as of `ModelSettings`.

    Raises:
        CacheFileError: it is no cache, or damaged.
        ModelError: the model is not there, or is not the one that wrote the cache.
        BatchError: "whole" of several segments; "retrieve" of a cache that has no index.
    """
    path = Path(path)
    started = time.perf_counter()
    with ExitStack() as opened:
        segments = open_checked(path, settings.scope)
        for segment in segments:
            opened.enter_context(segment)
        open_seconds = time.perf_counter() - started
        if not isinstance(model, Family):
            writer = WriterSettings(
                model=model, device=device, dtype=dtype, attention=attention, offline=offline
            )
            model = open_writer(segments[0], path, writer).load()
        video = VideoAnswerer(segments, model, path, settings=settings, open_seconds=open_seconds)
        opened.pop_all()
    return video


class VideoAnswerer:
    """Answers questions about one video from its cache. A context manager that closes it."""

    def __init__(
        self,
        segments: Sequence[CacheFile],
        family: Family,
        path: Path,
        *,
        settings: AnswerSettings = _DEFAULTS,
        open_seconds: float = 0.0,
    ) -> None:
        """Use the open segments of a video with the loaded model, as `open_cache` does.

        Args:
            path: what messages call the cache: its file or folder.
            open_seconds: what opening them took, for `loading`.
        """
        check_fits(segments[0], family, path)
        started = time.perf_counter()
        self._settings = settings
        self.scope = resolve(settings.scope, segments, path)
        self._segments = segments
        self._family = family
        self._retriever: Retriever | None = None
        self._whole: PrefixAnswerer | None = None
        load_bytes = sum(segment.size_bytes for segment in segments)
        if self.scope == "retrieve":
            self._retriever = Retriever(
                segments, family, budget_tokens=settings.budget_tokens, name=str(path)
            )
            load_bytes = self._retriever.index_bytes
        elif self.scope == "whole":
            self._whole = PrefixAnswerer.of_cache(segments[0], family)
        self.loading = Loading(
            load_seconds=open_seconds + time.perf_counter() - started,
            load_bytes=load_bytes,
            reencode_seconds=float(sum(segment.cost_seconds.sum() for segment in segments)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for segment in self._segments:
            segment.close()

    @property
    def video(self) -> str:
        """Digest of the video's content."""
        return self._segments[0].header.video.sha256

    def ask(self, question: Turns) -> Answer:
        """Answer one question; see `ask_all`, which is faster for many."""
        (answer,) = self.ask_all([question])
        return answer

    def ask_all(self, questions: Iterable[Turns]) -> Iterator[Answer]:
        """Answer questions in order.

        Of scope "each-segment" they are `ChosenAnswer`, when all are known; of scope "retrieve"
        `RetrievedAnswer`, one at a time whatever the batch size.

        Raises:
            BatchError: a question is empty, holds marks of the model's own, or does not fit the
                context or the budget.
            CacheFileError: rows that are read are damaged.
        """
        settings = self._settings
        if self._retriever is not None:
            yield from self._retriever.ask_all(questions, max_new_tokens=settings.max_new_tokens)
        elif self._whole is not None:
            yield from self._whole.ask_all(
                questions, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size
            )
        else:
            yield from self._ask_each_segment(list(questions))

    def stream(
        self, questions: Sequence[Turns], limits: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str | Answer]]:
        """Answer questions together, as `PrefixAnswerer.stream` does.

        A text comes at once, behind the one before, where samples are retrieved or segments asked.

        Args:
            limits: most tokens of each answer; None: as the settings have it, which always hold
                for scope "each-segment".

        Raises:
            BatchError, CacheFileError: as of `ask_all`.
        """
        limits = limits or [self._settings.max_new_tokens] * len(questions)
        if self._whole is not None:
            yield from self._whole.stream(questions, limits)
            return
        for number, (question, limit) in enumerate(zip(questions, limits, strict=True)):
            if self._retriever is not None:
                answers = self._retriever.ask_all([question], max_new_tokens=limit)
                answer: Answer = next(answers)
            else:
                (answer,) = self._ask_each_segment([question])
            yield number, answer.text
            yield number, answer

    def judged(self, questions: Iterable[Turns]) -> Iterator[tuple[Answer, float]]:
        """Answers as of `ask_all`, each with how likely the cache makes it.

        As a `Candidate`'s; of scope "each-segment" that of the segment which was chosen.
        """
        if self._whole is not None:
            yield from self._judged(self._whole, questions)
            return
        for answer in self.ask_all(questions):
            if isinstance(answer, RetrievedAnswer):
                yield answer, answer.likelihood
            elif isinstance(answer, ChosenAnswer):
                yield answer, max(one.likelihood for one in answer.candidates)

    def samples_within(self, times: Iterable[TimeRange]) -> tuple[int, ...]:
        """The samples of the video, as its manifest counts them, that are within some times."""
        time_s = np.concatenate([segment.tables.time_s for segment in self._segments])
        is_within = np.zeros(len(time_s), bool)
        for one in times:
            is_within |= (one.start_s <= time_s) & (time_s < one.stop_s)
        first = self._segments[0].header.segment.first_sample
        return tuple(map(int, first + np.flatnonzero(is_within)))

    def _ask_each_segment(self, questions: list[Turns]) -> list[ChosenAnswer]:
        """Put questions to one segment after the other; the rows of one are in memory at a time.

        A segment answers from what it holds of the question's matter, as far as the budget goes;
        all of it where keys cannot be moved.

        Source: 78 needle questions about 6 drawn hours of 23 to 25 segments, demo model: 71 right.
        All rows of each segment, which are more than this model was trained on, gave 14 of 39.
        """
        is_fixed = why_fixed(self._family.config) is not None
        found: list[list[tuple[Answer, Candidate]]] = [[] for _ in questions]
        times_s = [segment.tables.time_s for segment in self._segments]
        for segment, time_s, following_s in zip_longest(self._segments, times_s, times_s[1:]):
            whole = TimeRange(start_s=float(time_s[0]), stop_s=end_of(time_s, following_s))
            ask = self._ask_whole if is_fixed else self._ask_about
            answers = ask(segment, whole.stop_s, questions)
            for pairs, (answer, likelihood) in zip(found, answers, strict=True):
                candidate = Candidate(
                    segment=segment.header.segment.number,
                    time=whole,
                    text=answer.text,
                    complete=answer.complete,
                    evidence=answer.evidence,
                    likelihood=likelihood,
                )
                pairs.append((answer, candidate))
        return [_choose(pairs) for pairs in found]

    def _ask_about(
        self, segment: CacheFile, end_s: float, questions: list[Turns]
    ) -> Iterator[tuple[Answer, float]]:
        retriever = Retriever(
            [segment],
            self._family,
            budget_tokens=self._settings.budget_tokens,
            shares=SHARES[-1:],
            end_s=end_s,
            name=str(segment.path),
        )
        limit = self._settings.max_new_tokens
        for answer in retriever.ask_all(questions, max_new_tokens=limit):
            yield answer, answer.likelihood

    def _ask_whole(
        self, segment: CacheFile, end_s: float, questions: list[Turns]
    ) -> Iterator[tuple[Answer, float]]:
        yield from self._judged(PrefixAnswerer.of_cache(segment, self._family, end_s), questions)

    def _judged(
        self, answerer: PrefixAnswerer, questions: Iterable[Turns]
    ) -> Iterator[tuple[Answer, float]]:
        limit, size = self._settings.max_new_tokens, self._settings.batch_size
        exchanges = list(answerer.converse(questions, max_new_tokens=limit, batch_size=size))
        for first in range(0, len(exchanges), size):
            batch = exchanges[first : first + size]
            answers = (exchange.answer for exchange in batch)
            yield from zip(answers, answerer.log_likelihoods(batch), strict=True)


def _choose(found: list[tuple[Answer, Candidate]]) -> ChosenAnswer:
    best, _ = max(found, key=lambda pair: pair[1].likelihood)
    common = {field.name: getattr(best, field.name) for field in fields(Answer)}
    return ChosenAnswer(**common, candidates=tuple(candidate for _, candidate in found))
