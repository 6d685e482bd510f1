"""The suite `long`: answers, bytes and memory of questions about short events in hours of video.

Every phase of every video runs in a process of its own. Everything is drawn for the demo model.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from batch.analysis.manifest import Manifest
from batch.answering import RetrievedAnswer, Retriever
from batch.answering.retrieval import BUDGET_TOKENS, SHARES
from batch.demo.drawing import write_clip
from batch.demo.world import HELD_OUT_SEED
from batch.evaluation.bench.long_answers import answer_scopes, match_short_films
from batch.evaluation.bench.long_figures import Cost, Stored, Video, summarise
from batch.evaluation.bench.measuring import (
    BytesRead,
    Log,
    bytes_read,
    in_new_process,
    machine,
    peak_resident,
    versions,
)
from batch.evaluation.bench.workload import load_demo, write_cache, write_manifest
from batch.evaluation.worlds.needles import moments_of, random_needle_world
from batch.models import open_family
from cachefmt import open_segments
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX

MINUTES, SHORT_MINUTES, FILMS, EVIDENCE_FILMS = 60, 5, 3, 6

P = ParamSpec("P")
T = TypeVar("T")


class Call(Protocol):
    """Calls a function, here or in another process."""

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


def run_long(
    *,
    minutes: int = MINUTES,
    short_minutes: int = SHORT_MINUTES,
    films: int = FILMS,
    evidence_films: int = EVIDENCE_FILMS,
    budget_tokens: int = BUDGET_TOKENS,
    log: Log,
    call: Call = in_new_process,
) -> dict[str, Any]:
    """Measure; the result is plain JSON, all of it under "long".

    Args:
        minutes: length of each video; 3 or more leave room for its needles.
        short_minutes: length of the video whose peaks are compared with theirs.
        films: videos, whose needles stand at different places.
        evidence_films: short held-out films of each variant.
        budget_tokens: that a question may load.
        call: runs each phase; peaks mean something only if each has a process of its own.
    """
    before = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure = _Measurement(budget_tokens=budget_tokens, log=log, call=call)
        short = measure.video(folder / "short.mp4", 60 * short_minutes, offset=0.5, number=0)
        videos: list[Video] = []
        reads: list[BytesRead] = []
        for number in range(films):
            film = folder / f"long{number}.mp4"
            video = measure.video(film, 60 * minutes, offset=(number + 0.5) / films, number=number)
            cache = _cache_of(film)
            scopes = call(answer_scopes, film, cache, video.moments, budget_tokens)
            for scope, answered in scopes.items():
                log(f"{film.stem}: {scope} {answered.seconds:.1f} s")
            if not number:
                reads = call(_count_reads, cache, video.questions, budget_tokens)
            film.unlink()
            videos.append(replace(video, scopes=scopes))
        matches = call(match_short_films, folder, evidence_films)
        log("evidence in short films")
    found = summarise(short, videos, reads, matches, budget_tokens=budget_tokens)
    return {"suite": "long", "machine": before, "versions": versions(), "long": found}


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """How videos are measured."""

    budget_tokens: int
    log: Log
    call: Call

    def video(self, film: Path, samples: int, *, offset: float, number: int) -> Video:
        """Draw, analyse, prefill, and answer by retrieving."""
        rng = np.random.default_rng([HELD_OUT_SEED, number])
        world = random_needle_world(rng, samples, offset=offset)
        started = time.perf_counter()
        write_clip(world, film, frames_per_s=1, preset="ultrafast")
        moments = moments_of(world)
        costs = {"draw": Cost(seconds=time.perf_counter() - started, peak_bytes=None)}
        costs["analyze"] = self.call(_analyze, film)
        costs["prefill"] = self.call(_prefill, film)
        cache = _cache_of(film)
        questions = [moment.question.text for moment in moments]
        costs["answer"], replies = self.call(_retrieve, cache, questions, self.budget_tokens)
        costs["answer_full_budget"], _ = self.call(
            _retrieve, cache, questions, self.budget_tokens, shares=(1.0,)
        )
        for phase, cost in costs.items():
            peak = "" if cost.peak_bytes is None else f", {cost.peak_bytes / 1e6:.0f} MB"
            self.log(f"{film.stem}: {phase} {cost.seconds:.1f} s{peak}")
        return Video(
            samples=samples,
            moments=moments,
            stored=_stored(cache),
            costs=costs,
            replies=replies,
            scopes={},
        )


def _analyze(film: Path) -> Cost:
    family = open_family("demo")
    return _cost(lambda: write_manifest(film, family))


def _prefill(film: Path) -> Cost:
    family = load_demo()
    manifest = film.with_suffix(".parquet")
    return _cost(lambda: write_cache(film, Manifest.read(manifest), family))


def _retrieve(
    cache: Path, questions: Sequence[str], budget_tokens: int, shares: Sequence[float] = SHARES
) -> tuple[Cost, list[RetrievedAnswer]]:
    """Answer questions about a video, each from the samples that it is about.

    Args:
        shares: as of `Retriever`; of 1 alone, each question loads what the budget allows.
    """
    family = load_demo()
    replies: list[RetrievedAnswer] = []

    def answer() -> None:
        segments = open_segments(cache)
        retriever = Retriever(
            segments, family, budget_tokens=budget_tokens, shares=shares, name=str(cache)
        )
        replies.extend(retriever.ask_all(questions))

    return _cost(answer), replies


def _count_reads(cache: Path, questions: Sequence[str], budget_tokens: int) -> list[BytesRead]:
    """What one question takes from the files of a video that was not open before, for each."""
    family = load_demo()
    files = sorted(cache.iterdir()) if cache.is_dir() else [cache]

    def ask(question: str) -> Retriever:
        segments = open_segments(cache)
        retriever = Retriever(segments, family, budget_tokens=budget_tokens, name=str(cache))
        list(retriever.ask_all([question]))
        return retriever

    ask(questions[0])  # what Python and torch read for the first time is not the cache's
    return [bytes_read(lambda: ask(question), files) for question in questions]  # noqa: B023  # called at once


def _cost(work: Callable[[], object]) -> Cost:
    started = time.perf_counter()
    peak_bytes = peak_resident(work)
    return Cost(seconds=time.perf_counter() - started, peak_bytes=peak_bytes)


def _cache_of(film: Path) -> Path:
    """The cache that lies beside a film."""
    folder = film.with_suffix(FOLDER_SUFFIX)
    return folder if folder.exists() else film.with_suffix(FILE_SUFFIX)


def _stored(cache: Path) -> Stored:
    segments = open_segments(cache)
    tokens = [segment.header.shape.token_count for segment in segments]
    found = Stored(
        size_bytes=sum(segment.size_bytes for segment in segments),
        tokens=sum(tokens),
        segments=len(segments),
        largest_segment=max(tokens),
    )
    for segment in segments:
        segment.close()
    return found
