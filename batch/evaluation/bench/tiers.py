"""The suite `tiers`: what the cache costs and saves, in time and memory, against no cache."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.evaluation.bench.decoding import measure_decoding
from batch.evaluation.bench.lengths import measure_lengths
from batch.evaluation.bench.loading import measure_loading
from batch.evaluation.bench.machine import machine, versions
from batch.evaluation.bench.measuring import Found
from batch.evaluation.bench.prefilling import measure_batch, measure_films, measure_memory
from batch.evaluation.bench.sizes import Size
from batch.evaluation.bench.subject import PROFILE, Subject
from cachefmt import CacheFile

RATIOS = {
    "prefill_time": "time of analysis, prefill and writing / decoding and uncompressed forward",
    "prefill_peak_memory": "peak of K, V and activations, the same two",
    "prefill_memory_growth": "prefill peak beyond the stored bytes, longest / shortest and buffers",
    "first_answer_speedup": "first answer from the video, uncompressed / from the file",
    "load_rate": "raw read of a long cache into new memory / opening it and touching all rows",
    "load_rate_reused_buffer": "the same, read into a buffer that is there already",
    "batch64_speedup": "64 questions one by one / in one batch",
    "decode_step": "a step on INT8 or INT4 rows, the slower / on as many rows in bfloat16",
    "decode_step_uncompressed": "a step on a film's tiers / on all its slots in bfloat16",
}
"""What each ratio divides by what."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The ratios of one size and the figures behind them."""

    ratios: dict[str, float]
    figures: dict[str, Any]


def measure_tiers(size: Size, folder: Path, repeats: int, say: Callable[[str], object]) -> Measured:
    """Measure one size; films and caches go into the folder."""
    say(f"{size.name}: loading the model, drawing {size.films} film(s)")
    subject = Subject(size, folder)
    subject.compress(subject.films[0])  # the first run of everything is slower
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {
        "about": size.about,
        "device": size.device,
        "dtype": size.dtype,
        **_film_figures(subject),
    }
    # Decoding comes last: it turns the model into bfloat16.
    works: dict[str, Callable[[], Found]] = {
        "timing": lambda: measure_films(subject, repeats),
        "memory": lambda: measure_memory(subject),
        "lengths": lambda: measure_lengths(subject),
        "batch": lambda: measure_batch(subject, repeats),
        "loading": lambda: measure_loading(subject, repeats),
        "decoding": lambda: measure_decoding(subject, repeats),
    }
    for name, measure in works.items():
        say(f"{size.name}: {name}")
        found, figures[name] = measure()
        ratios |= found
    return Measured(ratios=ratios, figures=figures)


def run_tiers(
    sizes: Iterable[Size], *, repeats: int, say: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Measure sizes one after another; the result is plain JSON."""
    found = {}
    before = machine()
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size.name] = measure_tiers(size, Path(folder), repeats, say)
    return {
        "suite": "tiers",
        "machine": before,
        "versions": versions(),
        "repeats": repeats,
        "profile": PROFILE,
        "ratios": {name: one.ratios for name, one in found.items()},
        "figures": {name: one.figures for name, one in found.items()},
    }


def _film_figures(subject: Subject) -> dict[str, Any]:
    with CacheFile.open(subject.films[0].cache) as cache:
        shape, slots = cache.header.shape, cache.header.layout.slots
        return {
            "films": len(subject.films),
            "samples": shape.samples,
            "slots": slots,
            "tokens": dict(shape.tokens),
            "cache_bytes": cache.size_bytes,
        }
