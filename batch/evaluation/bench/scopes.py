"""Answers about one long video by what of it the model sees; a process that holds one at a time."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batch.answering import Answerer, Retriever, VideoAnswerer
from batch.demo.moments import Moment
from batch.evaluation.bench.stages import load_demo
from batch.evaluation.uncompressed import Uncompressed
from batch.kv import ATTENTION
from batch.models import Family
from batch.prefill.plan import ROOM_FOR_ANSWER
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

    - all: every segment answers, the likeliest answer counts.
    - bound: the segment that shows the moment, all of it; no retrieving knows better where to look.
    - bound_retrieve: what is retrieved within that segment.
    - uniform: as many samples as the budget holds, evenly over the video, by transformers' own
      forward, uncompressed.

    Args:
        film: the video itself, which only "uniform" sees.
    """
    family = load_demo()
    segments = open_segments(cache)
    texts = [moment.question.text for moment in moments]

    def everywhere() -> list[str]:
        video = VideoAnswerer(segments, family, cache, scope="all")
        return [reply.answer for reply in video.ask(texts)]

    def whole(segment: CacheFile, asked: list[str]) -> list[str]:
        return [reply.answer for reply in Answerer(segment, family).ask(asked)]

    def retrieved(segment: CacheFile, asked: list[str]) -> list[str]:
        retriever = Retriever(
            (segment,), family, budget_tokens=budget_tokens, name=str(segment.path)
        )
        return [reply.answer for reply in retriever.ask(asked)]

    return {
        "all": _timed(everywhere),
        "bound": _timed(lambda: _ask_right_segment(segments, moments, whole)),
        "bound_retrieve": _timed(lambda: _ask_right_segment(segments, moments, retrieved)),
        "uniform": _timed(lambda: _ask_uniform(film, family, texts, budget_tokens)),
    }


def uniform_samples(family: Family, film: Path, budget_tokens: int) -> int:
    """How many uncompressed samples, text included, fit a budget of tokens and the context."""
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    room = min(budget_tokens, family.decoder.context - ROOM_FOR_ANSWER)
    count = 1
    while len(family.layout(Footage.steady(geometry, count + 1)).token_ids) <= room:
        count += 1
    return count


def _ask_right_segment(
    segments: Sequence[CacheFile],
    moments: Sequence[Moment],
    ask: Callable[[CacheFile, list[str]], list[str]],
) -> list[str]:
    """Put each question to the segment in which its moment begins."""
    firsts = [segment.header.segment.first_sample for segment in segments]
    of_segment: defaultdict[int, list[int]] = defaultdict(list)
    for number, moment in enumerate(moments):
        place = int(np.searchsorted(firsts, moment.first_sample, side="right")) - 1
        of_segment[place].append(number)
    answers = [""] * len(moments)
    for place, numbers in of_segment.items():
        texts = [moments[number].question.text for number in numbers]
        for number, answer in zip(numbers, ask(segments[place], texts), strict=True):
            answers[number] = answer
    return answers


def _ask_uniform(film: Path, family: Family, texts: list[str], budget_tokens: int) -> list[str]:
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    count = uniform_samples(family, film, budget_tokens)
    samples = read_samples(film, geometry=geometry, max_samples=count)
    pictures = np.stack([sample.rgb for sample in samples])
    answers = Uncompressed(family, pictures, Footage.steady(geometry, len(pictures))).ask(texts)
    family.language_model.set_attn_implementation(ATTENTION)
    return answers


def _timed(work: Callable[[], list[str]]) -> Answered:
    started = time.perf_counter()
    return Answered(answers=work(), seconds=time.perf_counter() - started)
