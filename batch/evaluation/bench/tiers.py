"""The suite `tiers`: what the cache costs and saves, in time and memory, against no cache."""

import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from batch.evaluation.bench.answering import measure_batch, measure_loading, measure_questions
from batch.evaluation.bench.attention import measure_attention
from batch.evaluation.bench.counting import measure_launches
from batch.evaluation.bench.decoding import measure_decoding
from batch.evaluation.bench.prefilling import (
    measure_films,
    measure_lengths,
    measure_long_film,
    measure_memory,
)
from batch.evaluation.bench.workload import PROFILE, Measured, Size, Workload
from batch.evaluation.measuring import Log, OtherWork, circumstances, machine
from batch.settings import ModelSettings
from cachefmt import CacheFile

MEASURE_BY_NAME: dict[str, Callable[[Workload, int], Measured]] = {
    "timing": measure_films,
    "timing64": measure_long_film,
    "memory": measure_memory,
    "lengths": measure_lengths,
    "questions": measure_questions,
    "batch": measure_batch,
    "loading": measure_loading,
    "attention": measure_attention,
    "launches": measure_launches,
    "decoding": measure_decoding,
}
"""By the names of `report.MEASUREMENTS`: each of a loaded model, with so many repeats. Decoding
comes last: it turns the model into bfloat16."""


def run_tiers(
    sizes: Iterable[Size],
    *,
    repeats: int,
    log: Log,
    only: Collection[str] = (),
    where: ModelSettings | None = None,
) -> dict[str, Any]:
    """Measure sizes one after another; the result is plain JSON.

    Args:
        only: names of `report.MEASUREMENTS`; none is all.
        where: device and dtype; see `Workload`.
    """
    before, only = machine(), only or tuple(MEASURE_BY_NAME)
    found = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size.name] = measure_size(size, Path(folder), repeats, log, only, where)
    return {
        "suite": "tiers",
        **circumstances(before),
        "repeats": repeats,
        "profile": PROFILE,
        "ratios": {name: ratios for name, (ratios, _) in found.items()},
        "figures": {name: figures for name, (_, figures) in found.items()},
    }


def measure_size(
    size: Size,
    folder: Path,
    repeats: int,
    log: Log,
    only: Collection[str] = MEASURE_BY_NAME.keys(),
    where: ModelSettings | None = None,
) -> Measured:
    """Measure one size; films and caches go into the folder. Each ratio is logged as it is found.

    `other_work` in the figures is the share of the machine that others took meanwhile.
    """
    log(f"{size.name}: loading the model, drawing {size.films} film(s)")
    workload = Workload(size, folder, where)
    workload.compress(workload.films[0])  # the first run of everything is slower
    figures = _about(workload)
    ratios: dict[str, float] = {}
    others: dict[str, float | None] = {}
    for name, measure in MEASURE_BY_NAME.items():
        if name not in only:
            continue
        log(f"{size.name}: {name}")
        other_work = OtherWork()
        found, figures[name] = measure(workload, repeats)
        others |= dict.fromkeys(found, other_work.share())
        ratios |= found
        for ratio, value in found.items():
            log(f"{size.name}: {ratio} {value:.3f}")
    return ratios, {**figures, "other_work": others}


def _about(workload: Workload) -> dict[str, Any]:
    size = workload.size
    with CacheFile.open(workload.films[0].cache) as cache:
        shape = cache.header.shape
        return {
            "about": size.about,
            "device": workload.device,
            "dtype": workload.dtype,
            "films": len(workload.films),
            "samples": shape.samples,
            "slots": cache.header.layout.slots,
            "tokens": dict(shape.tokens),
            "cache_bytes": cache.size_bytes,
        }
