"""The suite `tiers`: what the cache costs and saves, in time and memory, against no cache."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.analysis.signals import Signals
from batch.evaluation.bench.stored_rows import Measured, measure_decoding, measure_loading
from batch.evaluation.bench.workload import PROFILE, Film, Size, Workload, write_manifest
from batch.evaluation.measuring import (
    Log,
    machine,
    peak_allocated,
    peak_resident,
    ratio,
    side_by_side,
    timed,
    versions,
)
from batch.evaluation.uncompressed import uncompressed_film
from batch.kv.attention import CHUNK_NUMBERS
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from cachefmt import CacheFile

QUESTIONS = 64
"""Of the batch."""
BUFFER_BYTES = 2 * 4 * CHUNK_NUMBERS
"""Keys and values that are decoded at a time, in float32; a short video does not fill them."""


def run_tiers(sizes: Iterable[Size], *, repeats: int, log: Log) -> dict[str, Any]:
    """Measure sizes one after another; the result is plain JSON."""
    found = {}
    before = machine()
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size.name] = measure_size(size, Path(folder), repeats, log)
    return {
        "suite": "tiers",
        "machine": before,
        "versions": versions(),
        "repeats": repeats,
        "profile": PROFILE,
        "ratios": {name: ratios for name, (ratios, _) in found.items()},
        "figures": {name: figures for name, (_, figures) in found.items()},
    }


def measure_size(size: Size, folder: Path, repeats: int, log: Log) -> Measured:
    """Measure one size; films and caches go into the folder."""
    log(f"{size.name}: loading the model, drawing {size.films} film(s)")
    workload = Workload(size, folder)
    workload.compress(workload.films[0])  # the first run of everything is slower
    with CacheFile.open(workload.films[0].cache) as cache:
        shape = cache.header.shape
        figures: dict[str, Any] = {
            "about": size.about,
            "device": size.device,
            "dtype": size.dtype,
            "films": len(workload.films),
            "samples": shape.samples,
            "slots": cache.header.layout.slots,
            "tokens": dict(shape.tokens),
            "cache_bytes": cache.size_bytes,
        }
    # Decoding comes last: it turns the model into bfloat16.
    measurements: dict[str, Callable[[], Measured]] = {
        "timing": lambda: _measure_films(workload, repeats),
        "memory": lambda: _measure_memory(workload),
        "lengths": lambda: _measure_lengths(workload),
        "batch": lambda: _measure_batch(workload, repeats),
        "loading": lambda: measure_loading(workload, repeats),
        "decoding": lambda: measure_decoding(workload, repeats),
    }
    ratios: dict[str, float] = {}
    for name, measure in measurements.items():
        log(f"{size.name}: {name}")
        found, figures[name] = measure()
        ratios |= found
    return ratios, figures


def _measure_films(workload: Workload, repeats: int) -> Measured:
    """Time of prefill and of the first answer, all films together, each way in turn."""
    taken: dict[str, list[float]] = {}
    for _ in range(repeats):
        films = [_time_film(workload, film) for film in workload.films]
        for name in films[0]:
            taken.setdefault(name, []).append(sum(film[name] for film in films))
    prefill, answer = taken["uncompressed_seconds"], taken["uncompressed_answer_seconds"]
    from_video = [sum(both) for both in zip(prefill, answer, strict=True)]
    ratios = {
        "prefill_time": ratio(taken["compressed_seconds"], prefill),
        "first_answer_speedup": ratio(from_video, taken["file_answer_seconds"]),
    }
    return ratios, dict(taken)


def _time_film(workload: Workload, film: Film) -> dict[str, float]:
    question, most = film.questions[:1], workload.size.answer_tokens

    def answer_from_file() -> None:
        list(workload.answerer(film).ask_all(question, max_new_tokens=most))

    compressed_s, manifest = timed(lambda: workload.compress(film))
    file_answer_s, _ = timed(answer_from_file)
    uncompressed_s, full = timed(lambda: uncompressed_film(workload.family, film.path))
    full_answer_s, _ = timed(lambda: full.ask_all(question, max_new_tokens=most))
    return {
        "compressed_seconds": compressed_s,
        "analyze_seconds": manifest.analyze_seconds,
        "file_answer_seconds": file_answer_s,
        "uncompressed_seconds": uncompressed_s,
        "uncompressed_answer_seconds": full_answer_s,
    }


def _measure_memory(workload: Workload) -> Measured:
    """Peak of K, V and activations above the weights while the first film is prefilled."""
    film = workload.films[0]
    ways = {
        "compressed": lambda: workload.compress(film),
        "uncompressed": lambda: uncompressed_film(workload.family, film.path),
    }
    allocated = {name: peak_allocated(way, workload.size.device) for name, way in ways.items()}
    resident = {name: peak_resident(way) for name, way in ways.items()}
    return (
        {"prefill_peak_memory": allocated["compressed"] / allocated["uncompressed"]},
        {"peak_allocated_bytes": allocated, "peak_resident_bytes": resident},
    )


def _measure_lengths(workload: Workload) -> Measured:
    """Peak beyond the bytes that are stored, of the longest video against the shortest.

    The videos are the first film several times over, so that all have its mix of tiers. The
    shortest is charged for full buffers, so 1 or less says: nothing grows but what is stored.
    """
    film, family = workload.films[0], workload.family
    manifest = write_manifest(film.path, family)
    # What a block takes does not depend on what positions mean to the model.
    family.config.get_text_config(decoder=True).max_position_embeddings = 1 << 20
    path = film.path.with_name("repeated.safetensors")
    samples, beyond, stored = [], [], []
    for times in workload.size.lengths:
        plan = plan_cache(_repeat(manifest, times), family, dtype=workload.size.dtype)
        peak = peak_allocated(lambda: prefill(plan, family, path), workload.size.device)  # noqa: B023  # called at once
        samples.append(len(plan.manifest.frame))
        stored.append(plan.size_bytes)
        beyond.append(peak - plan.size_bytes)
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


def _measure_batch(workload: Workload, repeats: int) -> Measured:
    """Many questions in one batch against the same one by one, on the same cache."""
    film = workload.films[0]
    questions = list(islice(cycle(film.questions), QUESTIONS))
    answerer, most = workload.answerer(film), workload.size.answer_tokens

    def answer(batch_size: int) -> None:
        list(answerer.ask_all(questions, max_new_tokens=most, batch_size=batch_size))

    taken = side_by_side(
        {"batch_seconds": lambda: answer(QUESTIONS), "one_by_one_seconds": lambda: answer(1)},
        repeats,
    )
    speedup = ratio(taken["one_by_one_seconds"], taken["batch_seconds"])
    return {"batch64_speedup": speedup}, {"questions": QUESTIONS, **taken}
