"""Stored rows: loading the longest prefix a decoder can use, and a decode step behind many."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from batch.evaluation.bench.workload import Workload
from batch.evaluation.measuring import ratio, side_by_side, timed
from batch.evaluation.uncompressed import own_attention
from batch.kv import Prefix, TieredCache, forward
from cachefmt import CacheFile, CacheWriter, Header
from cachefmt.header import Shape
from cachefmt.layout import TensorSpec, tensor_specs
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

PAGE_BYTES = 4096
STEPS = 8
"""Decode steps in a row each way before it is the other's turn; their median counts."""
DTYPE = torch.bfloat16
"""Of decode steps."""

Measured = tuple[dict[str, float], dict[str, Any]]
"""Ratios and the figures behind them."""


def measure_loading(workload: Workload, repeats: int) -> Measured:
    """Open, check, map and touch every page of the rows, in turn with one read of all bytes.

    All from the page cache: the file was just written. Touching stands for the first question,
    which reads the rows where they lie. The read is once into new memory, as by a program that
    has just been asked (`load_rate`), and once into a buffer whose pages are there already
    (`load_rate_reused_buffer`), which no loader of a first file has.
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


def measure_decoding(workload: Workload, repeats: int) -> Measured:
    """Steps of the whole model in bfloat16, the same rows in tiers and in a DynamicCache.

    `decode_step` is the slower of all INT8 and all INT4. `decode_step_uncompressed` has the mix
    of tiers of a film on our side, and on the other the slots that this many rows stand for.
    """
    nn.Module.to(workload.family.model, DTYPE)
    rows = workload.size.rows
    with CacheFile.open(workload.films[0].cache) as cache:
        film, slots = cache.header.shape, cache.header.layout.slots
    device = workload.size.device
    ratios, figures = {}, {}
    for tier in (Tier.INT8, Tier.INT4):
        prefix, name = _fill(film, {tier: rows}, device), tier.name.lower()
        plain = prefix.to_dynamic_cache(DTYPE)
        ratios[name], figures[name] = _compare(workload, prefix, plain, repeats)
    share = rows / film.token_count
    mix = {tier: int(film.tokens[tier.name] * share) for tier in STORED_TIERS}
    prefix = _fill(film, mix, device)
    full = _fill(film, {Tier.FP16: int(slots * share)}, device)
    mixed, figures["film"] = _compare(workload, prefix, full.to_dynamic_cache(DTYPE), repeats)
    return (
        {"decode_step": max(ratios.values()), "decode_step_uncompressed": mixed},
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
