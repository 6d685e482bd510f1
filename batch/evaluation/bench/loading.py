"""Loading a cache of the longest prefix that a decoder can use, against a raw read of its bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batch.evaluation.bench.measuring import Found, ratio, side_by_side
from batch.evaluation.bench.subject import Subject
from batch.kv import Prefix
from cachefmt import CacheFile, CacheWriter, Header
from cachefmt.layout import TensorSpec, tensor_specs

PAGE_BYTES = 4096


def measure_loading(subject: Subject, repeats: int) -> Found:
    """Open, check, map and touch every page of the rows, in turn with one read of all bytes.

    All from the page cache: the file was just written. Touching stands for the first question,
    which reads the rows where they lie. The read is once into new memory, as by a program that
    has just been asked (`load_rate`), and once into a buffer whose pages are there already
    (`load_rate_reused_buffer`), which no loader of a first file has.
    """
    film, tokens = subject.films[0], subject.size.load_tokens
    path = film.path.with_name("long.safetensors")
    with CacheFile.open(film.cache) as cache:
        _write_long(path, cache.header, tokens)
    buffer = np.ones(path.stat().st_size, np.uint8)  # ones: its pages are there before the clock
    taken = side_by_side(
        {
            "load_seconds": lambda: _touch(_load(path, subject.size.device)),
            "open_seconds": lambda: _load(path, subject.size.device),
            "raw_read_seconds": lambda: _read(path, np.empty(len(buffer), np.uint8)),
            "reused_buffer_seconds": lambda: _read(path, buffer),
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


def _read(path: Path, buffer: NDArray[np.uint8]) -> None:
    with path.open("rb", buffering=0) as file:
        read = 0
        while count := file.readinto(buffer.data[read:]):
            read += count


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
