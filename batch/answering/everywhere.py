"""Every segment of a video answers; the model's own likelihood says which answer is the video's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batch.answering.answerer import Answerer, Exchange, PrefixAnswerer, Reply
from batch.answering.evidence import TimeRange, span_of
from batch.kv import Prefix
from batch.models import Family
from cachefmt import CacheFile, Tier
from cachefmt import tensors as file_tensors


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
    """Natural logarithm of how much likelier the segment makes a token of the answer than the
    prompt without pictures does; a mean over the tokens."""


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
    for cache in segments:
        answerer = Answerer(cache, family)
        said = list(answerer.converse(asked, max_new_tokens=max_new_tokens, batch_size=batch_size))
        gains = _gains(answerer, _without_pictures(cache, family), said, batch_size)
        for number, (exchange, gain) in enumerate(zip(said, gains, strict=True)):
            replies[number].append(exchange.reply)
            candidates[number].append(_candidate(cache, exchange.reply, gain))
        del answerer
        cache.release()
    return [_choose(*of_question) for of_question in zip(replies, candidates, strict=True)]


def _choose(replies: list[Reply], candidates: list[Candidate]) -> ChosenReply:
    best = int(np.argmax([candidate.likelihood for candidate in candidates]))
    return ChosenReply(**vars(replies[best]), candidates=tuple(candidates))


def _candidate(cache: CacheFile, reply: Reply, gain: float) -> Candidate:
    return Candidate(
        segment=cache.header.segment.number,
        time=span_of(cache.array("sample.time_s")),
        answer=reply.answer,
        complete=reply.complete,
        evidence=reply.evidence,
        likelihood=gain,
    )


def _gains(
    seeing: PrefixAnswerer, blind: PrefixAnswerer, said: Sequence[Exchange], batch_size: int
) -> list[float]:
    """How much likelier each answer is with the pictures than without, per token."""
    gains: list[float] = []
    for first in range(0, len(said), batch_size):
        batch = said[first : first + batch_size]
        pairs = zip(seeing.log_likelihoods(batch), blind.log_likelihoods(batch), strict=True)
        gains += [one - other for one, other in pairs]
    return gains


def _without_pictures(cache: CacheFile, family: Family) -> PrefixAnswerer:
    """The prompt with nothing but the text that stands before all samples."""
    shape = cache.header.shape
    sample = cache.array("token.sample", 0, shape.tokens[Tier.FP16.name])  # text is stored as FP16
    rows = int(np.argmax(sample >= 0)) if (sample >= 0).any() else len(sample)
    text = replace(shape, tokens={**dict.fromkeys(shape.tokens, 0), Tier.FP16.name: rows})
    devices = family.layer_devices
    tensors = {}
    for name in cache.names:
        if name.startswith("layers."):
            stored = file_tensors.tensor(cache, name, 0, rows if name.endswith(".fp16") else 0)
            tensors[name] = stored.to(devices[int(name.split(".")[1])])
    ends = cache.array("token.position", 0, rows).max(0, initial=-1) + 1
    return PrefixAnswerer(
        Prefix(text, tensors, is_filled=True),
        family,
        next_position=tuple(ends.tolist()),
        name=str(cache.path),
    )
