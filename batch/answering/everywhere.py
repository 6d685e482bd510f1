"""Every segment of a video answers; the model's own likelihood says which answer is the video's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from batch.answering.answerer import Reply
from batch.answering.evidence import TimeRange
from batch.answering.placed import Answerer
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
    """Natural logarithm of the probability of a token, a mean over the answer's.

    Source: 182 questions to the demo model about a thing that one of five films shows: the
    likeliest answer is right for 0.978 of them, that of the right film for 0.995. How much likelier
    an answer is than without pictures chooses worse: 0.648. Among the 25 segments of an hour the
    likeliest is right for 0.359 (`batch bench --suite long`).
    """


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
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> list[ChosenReply]:
    """Put questions to every segment of a video, to one after the other.

    Only the rows of one segment are in memory at a time.

    Raises:
        BatchError: as of `PrefixAnswerer.ask`.
    """
    asked = list(questions)
    replies: list[list[Reply]] = [[] for _ in asked]
    candidates: list[list[Candidate]] = [[] for _ in asked]
    for cache, following in zip_longest(segments, segments[1:]):
        answerer = Answerer(cache, family, following)
        said = list(answerer.converse(asked, max_new_tokens=max_new_tokens, batch_size=batch_size))
        for first in range(0, len(said), batch_size):
            batch = said[first : first + batch_size]
            likely = answerer.log_likelihoods(batch)
            for number, exchange in enumerate(batch, first):
                replies[number].append(exchange.reply)
                likelihood = likely[number - first]
                candidates[number].append(_candidate(answerer, exchange.reply, likelihood))
        del answerer
        cache.release()
    return [_choose(*of_question) for of_question in zip(replies, candidates, strict=True)]


def _choose(replies: list[Reply], candidates: list[Candidate]) -> ChosenReply:
    best = int(np.argmax([candidate.likelihood for candidate in candidates]))
    return ChosenReply(**vars(replies[best]), candidates=tuple(candidates))


def _candidate(answerer: Answerer, reply: Reply, likelihood: float) -> Candidate:
    return Candidate(
        segment=answerer.segment,
        time=answerer.time,
        answer=reply.answer,
        complete=reply.complete,
        evidence=reply.evidence,
        likelihood=likelihood,
    )
