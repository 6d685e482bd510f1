"""Every segment of a video answers; the model's own likelihood says which answer is the video's."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest

import numpy as np

from batch.answering.answerer import Reply
from batch.answering.evidence import TimeRange, end_of
from batch.answering.placed import Answerer
from batch.answering.retrieval import BUDGET_TOKENS, SHARES, Retriever
from batch.models import Family
from cachefmt import CacheFile


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one segment of a video answers."""

    segment: int
    time: TimeRange
    """Of the whole segment."""
    answer: str
    complete: bool
    evidence: tuple[TimeRange, ...]
    likelihood: float
    """Natural logarithm of the probability of a token, a mean over the answer's."""


@dataclass(frozen=True, kw_only=True)
class ChosenReply(Reply):
    """The answer of the segment that makes it likeliest, and what all of them say."""

    candidates: tuple[Candidate, ...]
    """In order of time."""


def ask_everywhere(
    segments: Sequence[CacheFile],
    family: Family,
    questions: Iterable[str],
    *,
    budget_tokens: int = BUDGET_TOKENS,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> list[ChosenReply]:
    """Put questions to every segment of a video, to one after the other.

    A segment answers from what it holds of the question's matter, as far as the budget goes; all
    of it where there is no index. Only the rows of one segment are in memory at a time.

    Source: 78 needle questions about 6 drawn hours of 23 to 25 segments, demo model: 71 right. All
    rows of each segment, which are more than this model was trained on, gave 14 of 39.

    Raises:
        BatchError: as of `PrefixAnswerer.ask` and `Retriever.ask`.
        CacheFileError: rows that are read are damaged.
    """
    asked = list(questions)
    replies: list[list[Reply]] = [[] for _ in asked]
    candidates: list[list[Candidate]] = [[] for _ in asked]
    for cache, following in zip_longest(segments, segments[1:]):
        time = _time(cache, following)
        if cache.header.shape.index_layers:
            said = _ask_about(cache, family, time.stop_s, asked, budget_tokens, max_new_tokens)
        else:
            said = _ask_whole(cache, family, following, asked, max_new_tokens, batch_size)
        for number, (reply, likelihood) in enumerate(said):
            replies[number].append(reply)
            candidates[number].append(_candidate(cache, time, reply, likelihood))
        cache.release()
    return [_choose(*of_question) for of_question in zip(replies, candidates, strict=True)]


def _ask_about(
    cache: CacheFile,
    family: Family,
    end_s: float,
    asked: list[str],
    budget_tokens: int,
    max_new_tokens: int,
) -> Iterator[tuple[Reply, float]]:
    """Answers from what a segment holds of each question's matter, and how likely they are."""
    retriever = Retriever(
        [cache],
        family,
        budget_tokens=budget_tokens,
        shares=SHARES[-1:],
        end_s=end_s,
        name=str(cache.path),
    )
    for reply in retriever.ask(asked, max_new_tokens=max_new_tokens):
        yield reply, reply.likelihood


def _ask_whole(
    cache: CacheFile,
    family: Family,
    following: CacheFile | None,
    asked: list[str],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[tuple[Reply, float]]:
    """Answers from all of a segment, and how likely they are."""
    answerer = Answerer(cache, family, following)
    said = list(answerer.converse(asked, max_new_tokens=max_new_tokens, batch_size=batch_size))
    for first in range(0, len(said), batch_size):
        batch = said[first : first + batch_size]
        replies = (exchange.reply for exchange in batch)
        yield from zip(replies, answerer.log_likelihoods(batch), strict=True)


def _time(cache: CacheFile, following: CacheFile | None) -> TimeRange:
    """Of a whole segment, which has samples."""
    time_s = cache.array("sample.time_s")
    end_s = end_of(time_s, None if following is None else following.array("sample.time_s"))
    return TimeRange(start_s=float(time_s[0]), stop_s=end_s)


def _choose(replies: list[Reply], candidates: list[Candidate]) -> ChosenReply:
    best = int(np.argmax([candidate.likelihood for candidate in candidates]))
    of_reply = {field.name: getattr(replies[best], field.name) for field in fields(Reply)}
    return ChosenReply(**of_reply, candidates=tuple(candidates))


def _candidate(cache: CacheFile, time: TimeRange, reply: Reply, likelihood: float) -> Candidate:
    return Candidate(
        segment=cache.header.segment.number,
        time=time,
        answer=reply.answer,
        complete=reply.complete,
        evidence=reply.evidence,
        likelihood=likelihood,
    )
