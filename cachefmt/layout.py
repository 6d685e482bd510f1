"""The names of all tensors of a file, their largest sizes, and the bytes of its header.

Knows the safetensors container, no tensors' content and no file system.
"""

import itertools
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cachefmt.codecs import symbols
from cachefmt.header import ZERO_DIGEST, Header, Shape
from cachefmt.sealing import DIGEST_BYTES, SEAL_KEY, Seal, sealed, shorten
from cachefmt.tables import Tables
from cachefmt.tiers import STORED_TIERS, Tier

METADATA_KEY = "sali-cache"
MAX_JSON_BYTES = 100_000_000
"""Source: safetensors' own limit (its Rust reader, 0.8)."""
LENGTH_BYTES = 8
COST, TABLES, INDEX = "cost.seconds", "tables", "index"
COST_SECONDS = ("analyze", "encode", "prefill")
KINDS = ("key", "value")
"""What a row has in each layer, in the order of the file."""
BOUNDS_TIER = Tier.INT4
"""The encoding of the bounds of keys."""

_ALIGNMENT = 8
_KLT_HEAD_BYTES = 8 + symbols.HEAD_BYTES
"""Before the frame of a block of `klt`, which is no larger than one of exact rows."""
_COST_BYTES = 8 * len(COST_SECONDS)
_NUMPY_DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # numpy has no bfloat16: its bits
    "I8": "i1",
    "U8": "u1",
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Dtype (safetensors' name) and shape of a part of a tier's rows."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """BF16 comes as its bits in uint16."""
        return np.dtype(_NUMPY_DTYPES[self.dtype])

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize


def part_specs(shape: Shape, tier: Tier, rows: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """What the codec of a tier makes of numbers [*rows, head_dim]."""
    return tuple(
        TensorSpec(
            dtype=part.dtype or shape.raw_dtype,
            shape=(*rows, shape.head_dim // (part.channels or shape.group_size)),
        )
        for part in tier.parts
    )


def row_specs(shape: Shape, tier: Tier) -> tuple[TensorSpec, ...]:
    """Of all rows of a tier, of one layer and kind."""
    return part_specs(shape, tier, (shape.tokens[tier.name], shape.heads))


def kv_bytes(shape: Shape, tier: Tier | None = None) -> int:
    """Bytes of the keys and values of a tier, or of all, in all layers; scales included."""
    tiers = STORED_TIERS if tier is None else (tier,)
    return sum(token_bytes(shape, one) * shape.tokens[one.name] for one in tiers)


def token_bytes(shape: Shape, tier: Tier) -> int:
    """Bytes of the keys and values of one token of a tier in all layers."""
    rows = sum(spec.size_bytes for spec in part_specs(shape, tier, (shape.heads,)))
    return shape.layers * len(KINDS) * rows


def index_specs(shape: Shape) -> tuple[TensorSpec, ...]:
    """Of the columns of `index`: the codes of bounds, scales, minimums."""
    return part_specs(
        shape, BOUNDS_TIER, (shape.stored_samples, len(shape.index_layers), 2, shape.heads)
    )


def block_name(number: int, group: int) -> str:
    """Of the tensor with a block of a group of layers."""
    return f"block.{number:05}.{group:02}"


def basis_name(group: int) -> str:
    """Of the tensor with the basis of a group of layers."""
    return f"basis.{group:02}"


def tensor_names(header: Header) -> list[str]:
    """All tensors in the order of the file."""
    groups, blocks = range(header.group_count), range(header.block_count)
    return [
        *(COST, TABLES),
        *(map(basis_name, groups) if header.codec.has_bases else []),
        *(block_name(number, group) for number in blocks for group in groups),
        *([INDEX] if header.shape.index_layers else []),
    ]


def tensor_count(header: Header) -> int:
    """How many tensors `tensor_names` names, without naming them."""
    bases = header.group_count if header.codec.has_bases else 0
    blocks = header.block_count * header.group_count
    return 2 + bool(header.shape.index_layers) + bases + blocks


def largest_sizes(header: Header, tables: Tables) -> dict[str, int]:
    """Bytes of each tensor in the order of the file: exact, but for `klt` and the index at most."""
    shape, codec = header.shape, header.codec
    blocks = tables.blocks(codec.block_samples, codec.text_tokens)
    groups = header.groups()
    sizes = {COST: _COST_BYTES, TABLES: len(tables.pack())}
    if codec.has_bases:
        for group, layers in enumerate(groups):
            vector = len(layers) * shape.layer_numbers
            # A basis has no more components than there are tokens to make it of.
            count = min(vector, shape.token_count)
            numbers = 2 + 4 * (2 * len(layers) + count)
            sizes[basis_name(group)] = numbers + symbols.largest_matrix(vector * count)
    for number, rows in enumerate(blocks):
        for group, layers in enumerate(groups):
            sizes[block_name(number, group)] = _block_bytes(header, tables, rows, layers)
    if shape.index_layers:
        sizes[INDEX] = symbols.largest_frame(sum(spec.size_bytes for spec in index_specs(shape)))
    return sizes


def _block_bytes(header: Header, tables: Tables, rows: range, layers: range) -> int:
    shape = header.shape
    if header.codec.name == "plain":
        counts = tables.counts(rows)
        row_bytes = sum(count * token_bytes(shape, tier) for tier, count in counts.items())
        return row_bytes // shape.layers * len(layers)
    raw = np.dtype(_NUMPY_DTYPES[shape.raw_dtype]).itemsize
    numbers = len(rows) * len(layers) * shape.layer_numbers
    return _KLT_HEAD_BYTES + symbols.largest_frame(numbers * raw)


def file_size(header: Header, tables: Tables) -> int:
    """Bytes of the finished file: exact for `plain` without an index, else at most."""
    sizes = largest_sizes(header, tables)
    return reserved_bytes(header, sizes) + sum(sizes.values())


def reserved_bytes(header: Header, sizes: Mapping[str, int]) -> int:
    """Bytes of the largest header that a file of tensors of at most these sizes can have.

    ValueError where it holds a number that is not finite, or is too large for safetensors.
    """
    text = _json(header, sizes)
    json_bytes = len(text) + -len(text) % _ALIGNMENT
    if json_bytes > MAX_JSON_BYTES:
        raise ValueError(f"the header has {json_bytes} bytes, at most {MAX_JSON_BYTES} fit")
    return LENGTH_BYTES + json_bytes


def header_bytes(header: Header, sizes: Mapping[str, int], reserved: int) -> bytes:
    """The file's first bytes: length, JSON, padding; sealed.

    Args:
        header: with digests.
        sizes: bytes of each tensor, in the order of the file.
        reserved: how many the first bytes are, see `reserved_bytes`.
    """
    text = _json(header, sizes)
    json_bytes = reserved - LENGTH_BYTES
    if len(text) > json_bytes:
        raise ValueError(f"the header has {len(text)} bytes, {json_bytes} were reserved for it")
    blank = struct.pack("<Q", json_bytes) + text.ljust(json_bytes)
    return sealed(blank)


def tensor_entry(name: str, start: int, size_bytes: int) -> dict[str, Any]:
    """What the safetensors table says of a tensor that begins here; offsets count from the data."""
    dtype, shape = ("F64", [len(COST_SECONDS)]) if name == COST else ("U8", [size_bytes])
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size_bytes]}


def _json(header: Header, sizes: Mapping[str, int]) -> bytes:
    digests = header.digests or bytes(DIGEST_BYTES * len(sizes))
    seal = Seal(ZERO_DIGEST, header.fidelity, digests)
    starts = itertools.accumulate(sizes.values(), initial=0)
    table = {
        name: tensor_entry(name, start, size)
        for (name, size), start in zip(sizes.items(), starts, strict=False)
    }
    text = f"{header.format}:{shorten(header.to_json())}"
    metadata = {METADATA_KEY: text, SEAL_KEY: seal.pack()}
    parts = {"__metadata__": metadata, **table}
    return json.dumps(parts, separators=(",", ":")).encode()
