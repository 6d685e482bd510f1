"""The names of all tensors, and where every byte of a file is, known from its header alone.

Knows the safetensors container, no tensors' content and no file system.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from cachefmt.header import ZERO_DIGEST, Header, Shape
from cachefmt.tiers import STORED_TIERS, Tier

METADATA_KEY = "sali-cache"
MAX_JSON_BYTES = 100_000_000
"""Source: safetensors' own limit (its Rust reader, 0.8)."""
LENGTH_BYTES = 8
COST_SECONDS = ("analyze", "encode", "prefill")
KINDS = ("key", "value")
"""What a row has in each layer, in the order of the file."""
BOUNDS_TIER = Tier.INT4
"""The encoding of the bounds of keys."""
BOUNDS = BOUNDS_TIER.part_names("index.bounds")

# Our JSON sits in a JSON string, so its quotes are escaped. Sorted keys put nothing free
# (names, parameters) before header_sha256: its first occurrence is the real one.
_DIGEST_KEY = b'\\"header_sha256\\":\\"'
_ALIGNMENT = 8
_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "I32": "<i4",
    "F16": "<f2",
    "BF16": "<u2",  # numpy has no bfloat16: its bits
    "I8": "i1",
    "U8": "u1",
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Dtype (safetensors' name) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """BF16 comes as its bits in uint16."""
        return np.dtype(_NUMPY_DTYPES[self.dtype])

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the first axis."""
        return math.prod(self.shape[1:]) * self.numpy_dtype.itemsize


def row_tensors(layer: int, kind: str, tier: Tier) -> tuple[str, ...]:
    """Names of the tensors of a layer, kind and tier, in the order of the tier's codec."""
    return tier.part_names(f"layers.{layer}.{kind}.{tier.name.lower()}")


def row_specs(shape: Shape, tier: Tier) -> tuple[TensorSpec, ...]:
    """Of the tensors that `row_tensors` names; the same for each layer and kind."""
    return _part_specs(shape, tier, (shape.tokens[tier.name], shape.heads))


def tensor_specs(shape: Shape) -> dict[str, TensorSpec]:
    """All tensors by name, in the order in which their bytes stand in the file.

    Larger items come first, so each tensor starts at a multiple of its item size.
    """
    specs = _table_specs(shape)
    of_tiers = {tier: row_specs(shape, tier) for tier in STORED_TIERS}
    for layer, kind, tier in itertools.product(range(shape.layers), KINDS, STORED_TIERS):
        specs.update(zip(row_tensors(layer, kind, tier), of_tiers[tier], strict=True))
    by_item_bytes = sorted(specs, key=lambda name: -specs[name].numpy_dtype.itemsize)  # stable
    return {name: specs[name] for name in by_item_bytes}


def tensor_count(shape: Shape) -> int:
    """How many tensors `tensor_specs` names, without naming them."""
    parts = sum(len(tier.parts) for tier in STORED_TIERS)
    return len(_table_specs(shape)) + shape.layers * len(KINDS) * parts


def kv_bytes(shape: Shape, tier: Tier | None = None) -> int:
    """Bytes of the keys and values of a tier, or of all, in all layers; scales included."""
    tiers = STORED_TIERS if tier is None else (tier,)
    specs = itertools.chain.from_iterable(row_specs(shape, one) for one in tiers)
    return shape.layers * len(KINDS) * sum(spec.size_bytes for spec in specs)


def token_bytes(shape: Shape, tier: Tier) -> tuple[int, int]:
    """Bytes of one token of a tier: its keys and values, and its rows of the tables."""
    rows = sum(spec.row_bytes for spec in row_specs(shape, tier))
    tables = sum(spec.row_bytes for spec in _token_specs(shape).values())
    return shape.layers * len(KINDS) * rows, tables


def data_offsets(specs: dict[str, TensorSpec]) -> dict[str, tuple[int, int]]:
    """Half-open byte range of each tensor, counted from the end of the header."""
    ends = itertools.accumulate((spec.size_bytes for spec in specs.values()), initial=0)
    return dict(zip(specs, itertools.pairwise(ends), strict=True))


def tensor_table(specs: dict[str, TensorSpec]) -> dict[str, dict[str, Any]]:
    """The safetensors table: dtype, shape and data_offsets of each tensor, in file order."""
    offsets = data_offsets(specs)
    return {
        name: {"dtype": spec.dtype, "shape": [*spec.shape], "data_offsets": [*offsets[name]]}
        for name, spec in specs.items()
    }


def header_bytes(header: Header) -> bytes:
    """The file's first bytes: length, JSON, padding; with its digest filled in.

    Missing checksums become zeros, so a draft is as long as the finished header. ValueError where
    it holds a number that is not finite, or is too large for safetensors.
    """
    table = tensor_table(tensor_specs(header.shape))
    checksums = dict.fromkeys(table, ZERO_DIGEST) if header.checksums is None else header.checksums
    complete = dataclasses.replace(header, checksums=checksums, header_sha256=ZERO_DIGEST)
    parts = {"__metadata__": {METADATA_KEY: complete.to_json()}, **table}
    text = json.dumps(parts, separators=(",", ":")).encode()
    json_bytes = text + b" " * (-len(text) % _ALIGNMENT)
    if len(json_bytes) > MAX_JSON_BYTES:
        raise ValueError(f"the header has {len(json_bytes)} bytes, at most {MAX_JSON_BYTES} fit")
    blank = struct.pack("<Q", len(json_bytes)) + json_bytes
    return _with_digest(blank, hashlib.sha256(blank).hexdigest())


def header_digest(first_bytes: bytes) -> str:
    """SHA-256 of the first bytes (length, JSON, padding) with header_sha256 as zeros."""
    return hashlib.sha256(_with_digest(first_bytes, ZERO_DIGEST)).hexdigest()


def file_size(header: Header) -> int:
    """Size of the finished file, bytes; exact."""
    specs = tensor_specs(header.shape)
    return len(header_bytes(header)) + sum(spec.size_bytes for spec in specs.values())


def _with_digest(first_bytes: bytes, digest: str) -> bytes:
    start = first_bytes.index(_DIGEST_KEY) + len(_DIGEST_KEY)
    return first_bytes[:start] + digest.encode() + first_bytes[start + len(digest) :]


def _part_specs(shape: Shape, tier: Tier, rows: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """What the codec of a tier makes of numbers [*rows, head_dim]."""
    return tuple(
        TensorSpec(
            dtype=part.dtype or shape.raw_dtype,
            shape=(*rows, shape.head_dim // (part.channels or shape.group_size)),
        )
        for part in tier.parts
    )


def _table_specs(shape: Shape) -> dict[str, TensorSpec]:
    samples, stored = shape.samples, shape.stored_samples
    bounds = _part_specs(shape, BOUNDS_TIER, (stored, len(shape.index_layers), 2, shape.heads))
    return {
        "cost.seconds": TensorSpec(dtype="F64", shape=(len(COST_SECONDS),)),
        "sample.time_s": TensorSpec(dtype="F64", shape=(samples,)),
        "sample.source": TensorSpec(dtype="I32", shape=(samples,)),
        **_token_specs(shape),
        "index.row": TensorSpec(dtype="I32", shape=(stored, len(STORED_TIERS))),
        **dict(zip(BOUNDS, bounds, strict=True)),
    }


def _token_specs(shape: Shape) -> dict[str, TensorSpec]:
    tokens = shape.token_count
    one_number = TensorSpec(dtype="I32", shape=(tokens,))
    return {
        "token.position": TensorSpec(dtype="I32", shape=(tokens, shape.position_axes)),
        **dict.fromkeys(("token.sample", "token.cell", "token.multiplicity"), one_number),
    }
