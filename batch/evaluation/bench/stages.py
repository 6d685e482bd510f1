"""The three phases of one video, each to be run in a process of its own; the demo model's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.answering import RetrievedAnswer, Retriever
from batch.answering.retrieval import SHARES
from batch.evaluation.bench.measuring import peak_resident
from batch.evaluation.bench.reading import BytesRead, bytes_read
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_video
from batch.making.destination import Destination
from batch.models import Family, open_family
from cachefmt import open_segments

PROFILE = "default"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a phase, the model's loading left out."""

    seconds: float
    peak_bytes: int | None
    """Resident memory at its highest, above what there was when the model was loaded."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """Replies to questions by what was retrieved for each."""

    replies: list[RetrievedAnswer]
    cost: Cost


def load_demo() -> Family:
    """The bundled model, loaded."""
    family = open_family("demo")
    family.load(device="cpu", dtype=torch.float32)
    return family


def write_manifest(film: Path) -> None:
    """Analyse a film; its manifest lies beside it."""
    manifest = analyze_video(
        film,
        open_family("demo").geometry,
        AnalysisSettings.of_profile(PROFILE),
    )
    manifest.write(film.with_suffix(".parquet"))


def write_cache(film: Path, family: Family) -> Path:
    """Prefill an analysed film; its cache, a file or a folder, lies beside it."""
    manifest = Manifest.read(film.with_suffix(".parquet"))
    video = plan_video(manifest, family, dtype="float32")
    cache = Destination.named(film.parent, film.stem).cache(video)
    if video.is_cut:
        cache.mkdir()
    for number in range(len(video.headers)):
        prefill(video.segment(number), family, video.path(cache, number))
    return cache


def analyze(film: Path) -> Cost:
    """What analysing a film takes."""
    open_family("demo")
    return _cost(lambda: write_manifest(film))


def prefill_film(film: Path) -> Cost:
    """What the cache of an analysed film takes."""
    family = load_demo()
    return _cost(lambda: write_cache(film, family))


def retrieve(
    cache: Path, questions: Sequence[str], budget_tokens: int, shares: Sequence[float] = SHARES
) -> Retrieved:
    """Answer questions about a video, each from the samples that it is about.

    Args:
        shares: as of `Retriever`; of 1 alone, each question loads what the budget allows.
    """
    family = load_demo()
    replies: list[RetrievedAnswer] = []

    def work() -> None:
        retriever = Retriever(
            open_segments(cache),
            family,
            budget_tokens=budget_tokens,
            shares=shares,
            name=str(cache),
        )
        replies.extend(retriever.ask_all(questions))

    return Retrieved(cost=_cost(work), replies=replies)


def read_for(cache: Path, questions: Sequence[str], budget_tokens: int) -> list[BytesRead]:
    """What one question takes from the files of a video that was not open before, for each."""
    family = load_demo()
    files = sorted(cache.iterdir()) if cache.is_dir() else [cache]

    def ask(question: str) -> Retriever:
        retriever = Retriever(
            open_segments(cache), family, budget_tokens=budget_tokens, name=str(cache)
        )
        list(retriever.ask_all([question]))
        return retriever

    ask(questions[0])  # what Python and torch read for the first time is not the cache's
    return [bytes_read(lambda: ask(question), files) for question in questions]  # noqa: B023  # called at once


def _cost(work: Callable[[], object]) -> Cost:
    started = time.perf_counter()
    peak_bytes = peak_resident(work)
    return Cost(seconds=time.perf_counter() - started, peak_bytes=peak_bytes)
