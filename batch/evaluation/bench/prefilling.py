"""What a prefill takes in time and memory, against transformers' own forward over every slot."""

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.analysis.signals import Signals
from batch.evaluation.bench.workload import Film, Measured, Workload
from batch.evaluation.measuring import peak_allocated, peak_resident, ratio, timed, within
from batch.evaluation.uncompressed import uncompressed_film
from batch.kv.attention import CHUNK_NUMBERS
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from cachefmt.layout import kv_bytes

BUFFER_BYTES = 2 * 4 * CHUNK_NUMBERS
"""Keys and values that are decoded at a time, in float32; a short video does not fill them."""


def measure_films(workload: Workload, repeats: int) -> Measured:
    """Time of prefill and of the first answer, all films together, each way in turn."""
    return _measure_times(workload, workload.films, repeats, "")


def measure_long_film(workload: Workload, repeats: int) -> Measured:
    """The same of a film that is four times as long as the others."""
    return _measure_times(workload, [workload.long_film], repeats, "_64")


def _measure_times(workload: Workload, films: list[Film], repeats: int, suffix: str) -> Measured:
    taken: dict[str, list[float]] = {}
    for _ in within(repeats):
        seconds = [_time_film(workload, film) for film in films]
        for name in seconds[0]:
            taken.setdefault(name, []).append(sum(film[name] for film in seconds))
    prefill, answer = taken["uncompressed_seconds"], taken["uncompressed_answer_seconds"]
    from_video = [sum(both) for both in zip(prefill, answer, strict=True)]
    ratios = {
        f"prefill_time{suffix}": ratio(taken["compressed_seconds"], prefill),
        f"first_answer_speedup{suffix}": ratio(from_video, taken["file_answer_seconds"]),
    }
    return ratios, dict(taken)


def _time_film(workload: Workload, film: Film) -> dict[str, float]:
    question, most = film.questions[:1], workload.size.answer_tokens
    took: dict[str, float] = {}

    def compress() -> None:
        manifest = workload.analyze(film)
        took["analyze_seconds"] = manifest.analyze_seconds
        plan = plan_cache(manifest, workload.family, dtype=workload.dtype)
        parts = asdict(prefill(plan, workload.family, film.cache))
        took.update({f"{part}_seconds": seconds for part, seconds in parts.items()})

    took["compressed_seconds"], _ = timed(compress)
    took["file_answer_seconds"], _ = timed(lambda: workload.answer_from_file(film))
    took["uncompressed_seconds"], full = timed(
        lambda: uncompressed_film(workload.family, film.path)
    )
    took["uncompressed_answer_seconds"], _ = timed(
        lambda: full.ask_all(question, max_new_tokens=most)
    )
    return took


def measure_memory(workload: Workload, repeats: int) -> Measured:
    """Peak of K, V and activations above the weights while the first film is prefilled; once."""
    film = workload.films[0]
    ways = {
        "compressed": lambda: workload.compress(film),
        "uncompressed": lambda: uncompressed_film(workload.family, film.path),
    }
    allocated = {name: peak_allocated(way, workload.device) for name, way in ways.items()}
    resident = {name: peak_resident(way) for name, way in ways.items()}
    return (
        {"prefill_peak_memory": allocated["compressed"] / allocated["uncompressed"]},
        {"peak_allocated_bytes": allocated, "peak_resident_bytes": resident},
    )


def measure_lengths(workload: Workload, repeats: int) -> Measured:
    """Peak beyond the rows that are held, of the longest video against the shortest; once.

    The videos are the first film several times over, so that all have its mix of tiers. The
    shortest is charged for full buffers, so 1 or less says: nothing grows but the rows.
    """
    film, family = workload.films[0], workload.family
    manifest = workload.analyze(film)
    path = film.path.with_name("repeated.safetensors")
    samples, beyond, stored = [], [], []
    for times in workload.size.lengths:
        plan = plan_cache(_repeat(manifest, times), family, dtype=workload.dtype)
        peak = peak_allocated(lambda: prefill(plan, family, path), workload.device)  # noqa: B023  # called at once
        samples.append(len(plan.manifest.frame))
        stored.append(kv_bytes(plan.header.shape))
        beyond.append(peak - stored[-1])
    path.unlink()
    figures = {
        "buffer_bytes": BUFFER_BYTES,
        "samples": samples,
        "stored_bytes": stored,
        "beyond_stored_bytes": beyond,
    }
    return {"prefill_memory_growth": beyond[-1] / (beyond[0] + BUFFER_BYTES)}, figures


def _repeat(manifest: Manifest, times: int) -> Manifest:
    """The manifest of a video that runs so often in a row, without a change where it starts."""
    samples, signals = len(manifest.frame), manifest.signals
    run = np.repeat(np.arange(times), samples)

    def again(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array] * times)

    repeated = {field.name: again(getattr(signals, field.name)) for field in fields(signals)}
    repeated["source"] = (repeated["source"] + run * samples).astype(np.int32)
    return replace(
        manifest,
        frame=again(manifest.frame) + run * (manifest.frame[-1] + 1),
        pts_s=again(manifest.pts_s) + run * manifest.header.decoded_s,
        last_pts_s=again(manifest.last_pts_s) + run * manifest.header.decoded_s,
        signals=Signals(**repeated),
        tier=again(manifest.tier),
        pictures=list(manifest.pictures) * times,
    )
