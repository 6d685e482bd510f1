"""Hours of video: answers, bytes and memory of a question about one short event among all of it.

Every phase of every video runs in a process of its own. Everything is drawn for the demo model.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from batch.answering.retrieval import BUDGET_TOKENS
from batch.demo.clip import write_clip
from batch.demo.moments import Moment, moments
from batch.demo.needles import imagine_needles
from batch.demo.show import HELD_OUT
from batch.evaluation.bench import evidence
from batch.evaluation.bench.alone import alone
from batch.evaluation.bench.machine import machine, versions
from batch.evaluation.bench.reading import BytesRead
from batch.evaluation.bench.scopes import ask_scopes
from batch.evaluation.bench.stages import Cost, analyze, prefill_film, read_for, retrieve
from batch.evaluation.bench.summing import Stored, Video, summarise
from cachefmt import open_segments
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX

MINUTES, SHORT_MINUTES, FILMS, EVIDENCE_FILMS = 60, 5, 3, 6
_FRAMES_PER_S, _PRESET = 1, "ultrafast"

Say = Callable[[str], object]


def run_long(
    *,
    minutes: int = MINUTES,
    short_minutes: int = SHORT_MINUTES,
    films: int = FILMS,
    evidence_films: int = EVIDENCE_FILMS,
    budget_tokens: int = BUDGET_TOKENS,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure; the result is plain JSON, all of it under "long".

    Args:
        minutes: length of each video; 3 or more leave room for its needles.
        short_minutes: length of the video whose peaks are compared with theirs.
        films: videos, whose needles stand at different places.
        evidence_films: short held-out films of each variant.
        budget_tokens: that a question may load.
    """
    before = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        short = _process(folder, "short", 60 * short_minutes, 0, 1, budget_tokens, say)
        videos: list[Video] = []
        reads: list[BytesRead] = []
        for number in range(films):
            name = f"long{number}"
            video = _process(folder, name, 60 * minutes, number, films, budget_tokens, say)
            film = folder / f"{name}.mp4"
            scopes = alone(ask_scopes, film, cache_of(film), video.moments, budget_tokens)
            for scope, answered in scopes.items():
                say(f"{name}: {scope} {answered.seconds:.1f} s")
            if not number:
                reads = alone(read_for, cache_of(film), _texts(video.moments), budget_tokens)
            film.unlink()
            videos.append(replace(video, scopes=scopes))
        named = alone(evidence.short_films, folder, evidence_films)
        say("evidence in short films")
    found = summarise(short, videos, reads, named, budget_tokens=budget_tokens)
    return {"suite": "long", "machine": before, "versions": versions(), "long": found}


def cache_of(film: Path) -> Path:
    """The cache that lies beside a film."""
    folder = film.with_suffix(FOLDER_SUFFIX)
    return folder if folder.exists() else film.with_suffix(FILE_SUFFIX)


def _process(
    folder: Path, name: str, samples: int, number: int, films: int, budget_tokens: int, say: Say
) -> Video:
    """Draw, analyse, prefill, and answer by retrieving."""
    film = folder / f"{name}.mp4"
    world = imagine_needles(
        np.random.default_rng([HELD_OUT, number]), samples, offset=(number + 0.5) / films
    )
    started = time.perf_counter()
    write_clip(world, film, frames_per_s=_FRAMES_PER_S, preset=_PRESET)
    asked = moments(world)
    costs = {"draw": Cost(seconds=time.perf_counter() - started, peak_bytes=None)}
    costs["analyze"] = alone(analyze, film)
    costs["prefill"] = alone(prefill_film, film)
    retrieved = alone(retrieve, cache_of(film), _texts(asked), budget_tokens)
    costs["answer"] = retrieved.cost
    costs["answer_full_budget"] = alone(
        retrieve, cache_of(film), _texts(asked), budget_tokens, shares=(1.0,)
    ).cost
    for phase, cost in costs.items():
        peak = "" if cost.peak_bytes is None else f", {cost.peak_bytes / 1e6:.0f} MB"
        say(f"{name}: {phase} {cost.seconds:.1f} s{peak}")
    return Video(
        samples=samples,
        moments=asked,
        stored=_stored(cache_of(film)),
        costs=costs,
        replies=retrieved.replies,
        scopes={},
    )


def _stored(cache: Path) -> Stored:
    segments = open_segments(cache)
    tokens = [sum(segment.header.shape.tokens.values()) for segment in segments]
    found = Stored(
        size_bytes=sum(segment.size_bytes for segment in segments),
        tokens=sum(tokens),
        segments=len(segments),
        largest_segment=max(tokens),
    )
    for segment in segments:
        segment.close()
    return found


def _texts(asked: Sequence[Moment]) -> list[str]:
    return [moment.question.text for moment in asked]
