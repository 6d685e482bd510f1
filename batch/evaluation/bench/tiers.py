"""The suite `tiers`: what the cache costs and saves, in time and memory, against no cache."""

import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from batch.analysis.manifest import Manifest
from batch.analysis.signals import Signals
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
from batch.evaluation.uncompressed import own_attention, uncompressed_film
from batch.kv import Prefix, TieredCache, forward
from batch.kv.attention import CHUNK_NUMBERS
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from cachefmt import CacheFile, CacheWriter, Header
from cachefmt.header import Shape
from cachefmt.layout import TensorSpec, tensor_specs
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

QUESTIONS = 64
"""Of the batch."""
BUFFER_BYTES = 2 * 4 * CHUNK_NUMBERS
"""Keys and values that are decoded at a time, in float32; a short video does not fill them."""
PAGE_BYTES = 4096
STEPS = 8
"""Decode steps in a row each way before it is the other's turn; their median counts."""
DTYPE = torch.bfloat16
"""Of decode steps."""

Measured = tuple[dict[str, float], dict[str, Any]]
"""Ratios and the figures behind them."""


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
        "loading": lambda: _measure_loading(workload, repeats),
        "decoding": lambda: _measure_decoding(workload, repeats),
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

    took = {}
    took["compressed_seconds"], manifest = timed(lambda: workload.compress(film))
    took["analyze_seconds"] = manifest.analyze_seconds
    took["file_answer_seconds"], _ = timed(answer_from_file)
    took["uncompressed_seconds"], full = timed(
        lambda: uncompressed_film(workload.family, film.path)
    )
    took["uncompressed_answer_seconds"], _ = timed(
        lambda: full.ask_all(question, max_new_tokens=most)
    )
    return took


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


def _measure_loading(workload: Workload, repeats: int) -> Measured:
    """Open, check, map and touch every page of the rows, in turn with one read of all bytes.

    All from the page cache: the file was just written. Touching stands for the first question,
    which reads the rows where they lie. No loader of a first file has a buffer whose pages are
    there already, as `load_rate_reused_buffer` reads into.
    """
    film, tokens = workload.films[0], workload.size.load_tokens
    path = film.path.with_name("long.safetensors")
    with CacheFile.open(film.cache) as cache:
        _write_long(path, cache.header, tokens)
    buffer = np.ones(path.stat().st_size, np.uint8)  # ones: its pages are there before the clock

    def read(buffer: NDArray[np.uint8]) -> None:
        with path.open("rb") as file:
            file.readinto(buffer.data)

    taken = side_by_side(
        {
            "load_seconds": lambda: _touch(_load(path, workload.size.device)),
            "open_seconds": lambda: _load(path, workload.size.device),
            "raw_read_seconds": lambda: read(np.empty(len(buffer), np.uint8)),
            "reused_buffer_seconds": lambda: read(buffer),
        },
        max(repeats, 5),
    )
    path.unlink()
    ratios = {
        "load_rate": ratio(taken["raw_read_seconds"], taken["load_seconds"]),
        "load_rate_reused_buffer": ratio(taken["reused_buffer_seconds"], taken["load_seconds"]),
    }
    return ratios, {"file_bytes": len(buffer), "tokens": tokens, **taken}


def _load(path: Path, device: str) -> Prefix:
    with CacheFile.open(path) as cache:
        cache.verify_tables()
        return Prefix.load(cache, device)


def _touch(prefix: Prefix) -> None:
    for layer in range(prefix.shape.layers):
        for part in prefix.layer(layer):
            for rows in (*part.key, *part.value):
                if len(rows):
                    rows.view(-1).view(torch.uint8)[::PAGE_BYTES].max()


def _write_long(path: Path, like: Header, tokens: int) -> None:
    """Write a cache of so many text tokens, in the mix of tiers of another, of random rows."""
    stored = like.shape.token_count
    counts = {name: count * tokens // stored for name, count in like.shape.tokens.items()}
    counts["INT4"] += tokens - sum(counts.values())
    header = replace(
        like,
        shape=replace(like.shape, tokens=counts, samples=0, stored_samples=0),
        layout=replace(like.layout, slots=tokens, next_position=(tokens,)),
    )
    rng = np.random.default_rng(0)
    with CacheWriter(path, header) as writer:
        for name, spec in tensor_specs(header.shape).items():
            writer.write(name, 0, _content(name, spec, rng))
        writer.finish()


def _content(name: str, spec: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    dtype = spec.numpy_dtype
    if name.startswith("layers."):
        return rng.integers(0, 64, spec.size_bytes, np.uint8).view(dtype).reshape(spec.shape)
    if name in ("token.position", "sample.source"):
        return np.arange(spec.shape[0], dtype=dtype).reshape(spec.shape)
    values = {"token.multiplicity": 1, "token.sample": -1, "token.cell": -1}
    return np.full(spec.shape, values.get(name, 0), dtype)


def _measure_decoding(workload: Workload, repeats: int) -> Measured:
    """Steps of the whole model in bfloat16, the same rows in tiers and in a DynamicCache.

    `decode_step` is the slower of all INT8 and all INT4. `decode_step_uncompressed` has the mix
    of tiers of a film on our side, and on the other the slots that this many rows stand for.
    """
    nn.Module.to(workload.family.model, DTYPE)
    rows = workload.size.rows
    with CacheFile.open(workload.films[0].cache) as cache:
        film, slots = cache.header.shape, cache.header.layout.slots
    device, share = workload.size.device, rows / film.token_count
    mix = {tier: int(film.tokens[tier.name] * share) for tier in STORED_TIERS}
    ways = {"int8": {Tier.INT8: rows}, "int4": {Tier.INT4: rows}, "film": mix}
    ratios, figures = {}, {}
    for name, counts in ways.items():
        prefix = full = _fill(film, counts, device)
        if name == "film":
            full = _fill(film, {Tier.FP16: int(slots * share)}, device)
        plain = full.to_dynamic_cache(DTYPE)
        ratios[name], figures[name] = _compare(workload, prefix, plain, repeats)
    return (
        {
            "decode_step": max(ratios["int8"], ratios["int4"]),
            "decode_step_uncompressed": ratios["film"],
        },
        {"rows": rows, "slots": int(slots * share), "steps": STEPS, **figures},
    )


def _fill(like: Shape, tokens: dict[Tier, int], device: str) -> Prefix:
    """A prefix of random rows."""
    shape = replace(like, tokens=token_counts(tokens), raw_dtype="BF16")
    prefix = Prefix.allocate(shape, device)
    generator = torch.Generator(device).manual_seed(0)
    for layer in range(shape.layers):
        for tier, count in tokens.items():
            size = (2, count, shape.heads, shape.head_dim)
            key, value = torch.randn(size, generator=generator, device=device).to(DTYPE)
            prefix.append(layer, tier, key, value)
    return prefix


def _compare(
    workload: Workload, prefix: Prefix, plain: DynamicCache, repeats: int
) -> tuple[float, dict[str, list[float]]]:
    """Median seconds of a step each way, in turn, and the median of their ratios."""
    model = workload.family.language_model
    tiered = TieredCache(prefix)
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(1, 1, model.config.hidden_size, generator=generator)
    embedded = embedded.to(model.device, DTYPE)
    start = plain.get_seq_length()

    def step_tiered(place: Tensor) -> None:
        forward(model, embedded, place, tiered)

    def step_plain(place: Tensor) -> None:
        model(inputs_embeds=embedded, position_ids=place, past_key_values=plain, use_cache=True)

    taken: dict[str, list[float]] = {"tiered_seconds": [], "plain_seconds": []}
    for number in range(repeats + 1):
        first = start + number * STEPS
        places = torch.arange(first, first + STEPS, device=model.device).view(-1, 1, 1)
        taken["tiered_seconds"].append(_median_step(step_tiered, places))
        with own_attention(workload.family):
            taken["plain_seconds"].append(_median_step(step_plain, places))
    taken = {name: each[1:] for name, each in taken.items()}  # the first was a warm-up
    return ratio(taken["tiered_seconds"], taken["plain_seconds"]), taken


@torch.inference_mode()
def _median_step(step: Callable[[Tensor], None], places: Tensor) -> float:
    return statistics.median(timed(partial(step, place))[0] for place in places)
