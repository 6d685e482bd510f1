"""The suite `long`: answers, bytes and memory of questions about short events in hours of video.

Every phase of every video runs in a process of its own. Everything is drawn for the demo model.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from batch.analysis.manifest import Manifest
from batch.answering import RetrievedAnswer, Retriever
from batch.answering.retrieval import SHARES
from batch.demo.drawing import write_clip
from batch.demo.world import HELD_OUT_SEED
from batch.evaluation.bench.long_answers import answer_scopes, match_short_films
from batch.evaluation.bench.long_figures import Cost, Video, summarise
from batch.evaluation.bench.workload import load_demo, write_cache, write_manifest
from batch.evaluation.measuring import (
    BytesRead,
    Log,
    bytes_read,
    circumstances,
    in_new_process,
    machine,
    peak_resident,
    timed,
)
from batch.evaluation.worlds.needles import moments_of, random_needle_world
from batch.models import Family, open_family
from batch.settings import AnswerSettings
from cachefmt import open_segments
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX

MINUTES = 60
BUDGET_TOKENS = AnswerSettings.budget_tokens

Call = Callable[..., Any]
"""Calls a function with arguments, here or in another process."""


def run_long(
    *,
    minutes: int = MINUTES,
    short_minutes: int = 5,
    films: int = 3,
    evidence_films: int = 6,
    log: Log,
    call: Call = in_new_process,
) -> dict[str, Any]:
    """Measure; the result is plain JSON, all of it under "long".

    Args:
        minutes: length of each video; 3 or more leave room for its needles.
        short_minutes: length of the video whose peaks are compared with theirs.
        evidence_films: short held-out films of each variant.
        call: runs each phase; peaks mean something only if each has a process of its own.
    """
    before = machine()
    measure = partial(_measure_video, log=log, call=call)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        short = measure(folder / "short.mp4", 60 * short_minutes, offset=0.5, number=0)
        videos: list[Video] = []
        reads: list[BytesRead] = []
        for number in range(films):
            film = folder / f"long{number}.mp4"
            video = measure(film, 60 * minutes, offset=(number + 0.5) / films, number=number)
            cache = _cache_of(film)
            scopes = call(answer_scopes, film, cache, video.moments, BUDGET_TOKENS)
            for scope, (seconds, _) in scopes.items():
                log(f"{film.stem}: {scope} {seconds:.1f} s")
            if not number:
                reads = call(_count_reads, cache, video.questions)
            film.unlink()
            videos.append(replace(video, scopes=scopes))
        matches = call(match_short_films, folder, evidence_films)
        log("evidence in short films")
    found = summarise(short, videos, reads, matches, budget_tokens=BUDGET_TOKENS)
    return {
        "suite": "long",
        **circumstances(before),
        "long": found,
    }


def _measure_video(
    film: Path, samples: int, *, offset: float, number: int, log: Log, call: Call
) -> Video:
    """Draw, analyse, prefill, and answer by retrieving."""
    rng = np.random.default_rng([HELD_OUT_SEED, number])
    world = random_needle_world(rng, samples, offset=offset)
    drawn_s, _ = timed(lambda: write_clip(world, film, frames_per_s=1, preset="ultrafast"))
    moments = moments_of(world)
    costs = {"draw": Cost(seconds=drawn_s, peak_bytes=None)}
    costs["analyze"] = call(_analyze, film)
    costs["prefill"] = call(_prefill, film)
    cache, questions = _cache_of(film), [moment.question.text for moment in moments]
    costs["answer"], replies = call(_retrieve, cache, questions)
    costs["answer_full_budget"], _ = call(_retrieve, cache, questions, shares=(1.0,))
    for phase, cost in costs.items():
        peak = "" if cost.peak_bytes is None else f", {cost.peak_bytes / 1e6:.0f} MB"
        log(f"{film.stem}: {phase} {cost.seconds:.1f} s{peak}")
    stored = _stored(cache)
    return Video(samples=samples, moments=moments, stored=stored, costs=costs, replies=replies)


def _analyze(film: Path) -> Cost:
    family = open_family("demo")
    return _cost(lambda: write_manifest(film, family))


def _prefill(film: Path) -> Cost:
    family = load_demo()
    return _cost(lambda: write_cache(film, Manifest.read(film.with_suffix(".parquet")), family))


def _retrieve(
    cache: Path, questions: Sequence[str], shares: Sequence[float] = SHARES
) -> tuple[Cost, list[RetrievedAnswer]]:
    """Answer by retrieving; with the share 1 alone, a question loads all that the budget allows."""
    family = load_demo()
    replies: list[RetrievedAnswer] = []

    def answer() -> None:
        replies.extend(_retriever(cache, family, shares).ask_all(questions))

    return _cost(answer), replies


def _count_reads(cache: Path, questions: Sequence[str]) -> list[BytesRead]:
    """What one question takes from the files of a video that was not open before, for each."""
    family = load_demo()
    files = sorted(cache.iterdir()) if cache.is_dir() else [cache]

    def ask(question: str) -> Retriever:
        retriever = _retriever(cache, family)
        list(retriever.ask_all([question]))
        return retriever

    ask(questions[0])  # what Python and torch read for the first time is not the cache's
    return [bytes_read(partial(ask, question), files) for question in questions]


def _retriever(cache: Path, family: Family, shares: Sequence[float] = SHARES) -> Retriever:
    return Retriever(
        open_segments(cache),
        family,
        budget_tokens=BUDGET_TOKENS,
        shares=shares,
        name=str(cache),
    )


def _cost(work: Callable[[], object]) -> Cost:
    seconds, peak_bytes = timed(lambda: peak_resident(work))
    return Cost(seconds=seconds, peak_bytes=peak_bytes)


def _cache_of(film: Path) -> Path:
    folder = film.with_suffix(FOLDER_SUFFIX)
    return folder if folder.exists() else film.with_suffix(FILE_SUFFIX)


def _stored(cache: Path) -> dict[str, int]:
    segments = open_segments(cache)
    tokens = [segment.header.shape.token_count for segment in segments]
    size_bytes = sum(segment.size_bytes for segment in segments)
    for segment in segments:
        segment.close()
    return {
        "size_bytes": size_bytes,
        "tokens": sum(tokens),
        "segments": len(segments),
        "largest_segment": max(tokens),
    }
