"""Answers about one long video by what of it the model sees, and the times named with answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from batch.answering import Answer, AnswerSettings, PrefixAnswerer, Retriever, VideoAnswerer
from batch.demo.drawing import write_clip
from batch.demo.world import HELD_OUT_SEED
from batch.evaluation.bench.workload import load_demo, write_cache, write_manifest
from batch.evaluation.measuring import timed
from batch.evaluation.uncompressed import uncompressed_film
from batch.evaluation.worlds.needles import Moment, moments_of
from batch.evaluation.worlds.variants import VARIANTS
from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe
from cachefmt import CacheFile, open_segments


@dataclass(frozen=True, kw_only=True)
class EvidenceMatch:
    """How the times named with an answer match the moment that shows it."""

    recall: float
    """Share of the moment's samples that lie in the named times, 0..1."""
    share: float
    """Of the video that is named, 0..1."""
    is_right: bool


def answer_scopes(
    film: Path, cache: Path, moments: Sequence[Moment], budget_tokens: int
) -> dict[str, tuple[float, list[str]]]:
    """Ask about a video in every way but by retrieving; seconds and answers of each.

    `report.SCOPES` says what each is. "bound" may hold more samples than the model was trained on,
    so it is no bound where that hurts. "elsewhere" is half a video away, so that what is right was
    guessed; a video in one segment has none. Only "uniform" sees the film itself.
    """
    family = load_demo()
    segments = open_segments(cache)
    texts = [moment.question.text for moment in moments]

    whole = partial(PrefixAnswerer.of_cache, family=family)

    def retriever(segment: CacheFile) -> Retriever:
        name = str(segment.path)
        return Retriever((segment,), family, budget_tokens=budget_tokens, name=name)

    firsts = [segment.header.segment.first_sample for segment in segments]
    begins = [moment.first_sample for moment in moments]
    right = [int(after) - 1 for after in np.searchsorted(firsts, begins, side="right")]
    half = len(segments) // 2
    wrong = [(place + half) % len(segments) for place in right]
    ways: dict[str, Callable[[], list[str]]] = {
        "all": lambda: answer_by_all(cache, family, texts, budget_tokens),
        "bound": lambda: _ask_at(segments, right, texts, whole),
        "bound_retrieve": lambda: _ask_at(segments, right, texts, retriever),
        "uniform": lambda: _answer_uniformly(film, family, texts, budget_tokens),
    }
    if half:
        ways["elsewhere"] = lambda: _ask_at(segments, wrong, texts, whole)
    return {scope: timed(way) for scope, way in ways.items()}


def answer_by_all(
    cache: Path, family: Family, texts: Sequence[str], budget_tokens: int
) -> list[str]:
    """The likeliest answer of all segments, each from what is retrieved within it."""
    settings = AnswerSettings(scope="each-segment", budget_tokens=budget_tokens)
    with VideoAnswerer(open_segments(cache), family, cache, settings=settings) as video:
        return [reply.text for reply in video.ask_all(texts)]


def match_evidence(reply: Answer, moment: Moment, samples: int) -> EvidenceMatch:
    """Compare the times of a reply with the moment, in a video of one sample a second."""
    times = np.arange(samples)
    inside = np.zeros(samples, bool)
    for time_span in reply.evidence:
        inside |= (time_span.start_s <= times) & (times < time_span.stop_s)
    shown = inside[moment.first_sample : moment.first_sample + moment.samples]
    return EvidenceMatch(
        recall=float(shown.mean()),
        share=float(inside.mean()),
        is_right=reply.text == moment.question.answer,
    )


def match_short_films(
    folder: Path, films: int, variants: Sequence[str] = ("plain", "long", "still-event")
) -> dict[str, list[EvidenceMatch]]:
    """Ask held-out films of some seconds, so many of each variant, about their moments."""
    family = load_demo()
    found: dict[str, list[EvidenceMatch]] = {}
    for variant in variants:
        found[variant] = []
        for number in range(films):
            world = VARIANTS[variant].random_world(np.random.default_rng([HELD_OUT_SEED, number]))
            film = folder / f"{variant}-{number}.mp4"
            write_clip(world, film)
            moments = moments_of(world)
            with CacheFile.open(write_cache(film, write_manifest(film, family), family)) as cache:
                answerer = PrefixAnswerer.of_cache(cache, family)
                replies = answerer.ask_all(moment.question.text for moment in moments)
                found[variant] += [
                    match_evidence(reply, moment, world.samples)
                    for moment, reply in zip(moments, replies, strict=True)
                ]
    return found


def _ask_at(
    segments: Sequence[CacheFile],
    places: Sequence[int],
    texts: Sequence[str],
    answerer_of: Callable[[CacheFile], PrefixAnswerer | Retriever],
) -> list[str]:
    """Put each question to the segment in its place, those of one segment together."""
    answers = [""] * len(texts)
    for place in sorted(set(places)):
        numbers = [number for number, its in enumerate(places) if its == place]
        replies = answerer_of(segments[place]).ask_all([texts[number] for number in numbers])
        for number, reply in zip(numbers, replies, strict=True):
            answers[number] = reply.text
    return answers


def _answer_uniformly(
    film: Path, family: Family, texts: list[str], budget_tokens: int
) -> list[str]:
    """From as many uncompressed samples as fit, text included, the budget and the context."""
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    room = min(budget_tokens, family.decoder.context - ROOM_FOR_ANSWER)
    count = 1
    while len(family.layout(Footage.steady(geometry, count + 1)).token_ids) <= room:
        count += 1
    return uncompressed_film(family, film, max_samples=count).ask_all(texts)
