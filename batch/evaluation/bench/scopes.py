"""Answers about one long video by what of it the model sees; a process that holds one at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batch.answering import AnswerSettings, PrefixAnswerer, Retriever, VideoAnswerer
from batch.demo.moments import Moment
from batch.evaluation.bench.stages import load_demo
from batch.evaluation.uncompressed import Uncompressed
from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe, read_samples
from cachefmt import CacheFile, open_segments


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Answers to all questions of a video, in their order, and what they took."""

    answers: list[str]
    seconds: float


def ask_scopes(
    film: Path, cache: Path, moments: Sequence[Moment], budget_tokens: int
) -> dict[str, Answered]:
    """Ask about a video in every way but by retrieving.

    - all: every segment answers from what is retrieved within it; the likeliest answer counts.
    - bound: the segment that shows the moment, all of it. It may hold more samples than the model
      was trained on, so it is no bound where that hurts;
    - bound_retrieve: what is retrieved within that segment.
    - elsewhere: a segment half a video away, which does not show it: what is right was guessed.
      Not asked of a video in one segment.
    - uniform: as many samples as the budget holds, evenly over the video, by transformers' own
      forward, uncompressed.

    Args:
        film: the video itself, which only "uniform" sees.
    """
    family = load_demo()
    segments = open_segments(cache)
    texts = [moment.question.text for moment in moments]

    def everywhere() -> list[str]:
        settings = AnswerSettings(scope="each-segment", budget_tokens=budget_tokens)
        video = VideoAnswerer(segments, family, cache, settings=settings)
        return [reply.text for reply in video.ask_all(texts)]

    def whole(segment: CacheFile, asked: list[str]) -> list[str]:
        answerer = PrefixAnswerer.of_cache(segment, family)
        return [reply.text for reply in answerer.ask_all(asked)]

    def retrieved(segment: CacheFile, asked: list[str]) -> list[str]:
        retriever = Retriever(
            (segment,), family, budget_tokens=budget_tokens, name=str(segment.path)
        )
        return [reply.text for reply in retriever.ask_all(asked)]

    right = _segments_of(segments, moments)
    half = len(segments) // 2
    wrong = [(place + half) % len(segments) for place in right]
    found = {
        "all": _timed(everywhere),
        "bound": _timed(lambda: _ask_at(segments, right, texts, whole)),
        "bound_retrieve": _timed(lambda: _ask_at(segments, right, texts, retrieved)),
        "uniform": _timed(lambda: _ask_uniform(film, family, texts, budget_tokens)),
    }
    if half:
        found["elsewhere"] = _timed(lambda: _ask_at(segments, wrong, texts, whole))
    return found


def uniform_samples(family: Family, film: Path, budget_tokens: int) -> int:
    """How many uncompressed samples, text included, fit a budget of tokens and the context."""
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    room = min(budget_tokens, family.decoder.context - ROOM_FOR_ANSWER)
    count = 1
    while len(family.layout(Footage.steady(geometry, count + 1)).token_ids) <= room:
        count += 1
    return count


def _segments_of(segments: Sequence[CacheFile], moments: Sequence[Moment]) -> list[int]:
    """The segment in which each moment begins."""
    firsts = [segment.header.segment.first_sample for segment in segments]
    begins = [moment.first_sample for moment in moments]
    return [int(place) - 1 for place in np.searchsorted(firsts, begins, side="right")]


def _ask_at(
    segments: Sequence[CacheFile],
    places: Sequence[int],
    texts: Sequence[str],
    ask: Callable[[CacheFile, list[str]], list[str]],
) -> list[str]:
    """Put each question to the segment in its place, those of one segment together."""
    answers = [""] * len(texts)
    for place in sorted(set(places)):
        numbers = [number for number, its in enumerate(places) if its == place]
        said = ask(segments[place], [texts[number] for number in numbers])
        for number, answer in zip(numbers, said, strict=True):
            answers[number] = answer
    return answers


def _ask_uniform(film: Path, family: Family, texts: list[str], budget_tokens: int) -> list[str]:
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    count = uniform_samples(family, film, budget_tokens)
    samples = read_samples(film, geometry=geometry, max_samples=count)
    pictures = np.stack([sample.rgb for sample in samples])
    answers = Uncompressed(family, pictures, Footage.steady(geometry, len(pictures))).ask_all(texts)
    family.attend_over_tiers()
    return answers


def _timed(work: Callable[[], list[str]]) -> Answered:
    started = time.perf_counter()
    return Answered(answers=work(), seconds=time.perf_counter() - started)
