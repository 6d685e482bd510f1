"""Where every byte of a cache file is, known from its header before anything is written.

Knows the safetensors container, no tensors' content and no file system.
"""

import dataclasses
import hashlib
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from cachefmt.header import ZERO_DIGEST, Header, Shape

METADATA_KEY = "sali-cache"
MAX_JSON_BYTES = 100_000_000
"""Source: safetensors' own limit (its Rust reader, 0.8)."""
LENGTH_BYTES = 8
COST_SECONDS = ("analyze", "encode", "prefill")
ITEM_BYTES = {"F64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}

# Our JSON sits in a JSON string, so its quotes are escaped. Sorted keys put nothing free
# (names, parameters) before header_sha256: its first occurrence is the real one.
_DIGEST_KEY = b'\\"header_sha256\\":\\"'
_ALIGNMENT = 8
_KINDS = ("key", "value")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Dtype (safetensors' name) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the first axis."""
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]


def tensor_specs(shape: Shape) -> dict[str, TensorSpec]:
    """All tensors by name, in the order in which their bytes stand in the file.

    Larger items come first, so each tensor starts at a multiple of its item size.
    """
    specs = _table_specs(shape)
    of_rows = _row_specs(shape)
    for layer in range(shape.layers):
        for kind in _KINDS:
            prefix = f"layers.{layer}.{kind}."
            specs |= {prefix + name: spec for name, spec in of_rows.items()}
    by_item_bytes = sorted(specs, key=lambda name: -ITEM_BYTES[specs[name].dtype])  # stable
    return {name: specs[name] for name in by_item_bytes}


def tensor_count(shape: Shape) -> int:
    """How many tensors `tensor_specs` names, without naming them."""
    one_layer = len(_KINDS) * len(_row_specs(shape))
    return len(_table_specs(shape)) + shape.layers * one_layer


def data_offsets(specs: dict[str, TensorSpec]) -> dict[str, tuple[int, int]]:
    """Half-open byte range of each tensor, counted from the end of the header."""
    offsets = {}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.size_bytes
        offsets[name] = (start, end)
    return offsets


def tensor_table(specs: dict[str, TensorSpec]) -> dict[str, dict[str, Any]]:
    """The safetensors table: dtype, shape and data_offsets of each tensor, in file order."""
    return {
        name: {
            "dtype": specs[name].dtype,
            "shape": list(specs[name].shape),
            "data_offsets": [*ends],
        }
        for name, ends in data_offsets(specs).items()
    }


def header_bytes(header: Header) -> bytes:
    """The file's first bytes: length, JSON, padding; with its digest filled in.

    Missing checksums become zeros, so a draft is as long as the finished header.

    Raises:
        ValueError: the header holds a number that is not finite, or is too large for
            safetensors.
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
    start = digest_start(blank)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank[:start] + digest + blank[start + len(digest) :]


def digest_start(first_bytes: bytes) -> int:
    """Offset of the 64 digits of header_sha256 in the file's first bytes.

    Raises:
        ValueError: the key is not there.
    """
    return first_bytes.index(_DIGEST_KEY) + len(_DIGEST_KEY)


def header_digest(first_bytes: bytes) -> str:
    """SHA-256 of the first bytes (length, JSON, padding) with header_sha256 as zeros.

    Raises:
        ValueError: the key header_sha256 is not there.
    """
    start = digest_start(first_bytes)
    zeros = ZERO_DIGEST.encode()
    return hashlib.sha256(
        first_bytes[:start] + zeros + first_bytes[start + len(zeros) :]
    ).hexdigest()


def file_size(header: Header) -> int:
    """Size of the finished file, bytes; exact."""
    specs = tensor_specs(header.shape)
    return len(header_bytes(header)) + sum(spec.size_bytes for spec in specs.values())


def _table_specs(shape: Shape) -> dict[str, TensorSpec]:
    tokens, samples = shape.token_count, shape.samples
    return {
        "cost.seconds": TensorSpec(dtype="F64", shape=(len(COST_SECONDS),)),
        "sample.time_s": TensorSpec(dtype="F64", shape=(samples,)),
        "sample.source": TensorSpec(dtype="I32", shape=(samples,)),
        "token.position": TensorSpec(dtype="I32", shape=(tokens, shape.position_axes)),
        "token.sample": TensorSpec(dtype="I32", shape=(tokens,)),
        "token.cell": TensorSpec(dtype="I32", shape=(tokens,)),
        "token.multiplicity": TensorSpec(dtype="I32", shape=(tokens,)),
        **_index_specs(shape),
    }


def _index_specs(shape: Shape) -> dict[str, TensorSpec]:
    stored = shape.stored_samples
    rows = (stored, len(shape.index_layers), 2, shape.heads)
    return {
        "index.row": TensorSpec(dtype="I32", shape=(stored, len(shape.tokens))),
        "index.bounds": TensorSpec(dtype="U8", shape=(*rows, shape.head_dim // 2)),
        "index.bounds.scale": TensorSpec(dtype="F16", shape=(*rows, shape.groups)),
        "index.bounds.minimum": TensorSpec(dtype="F16", shape=(*rows, shape.groups)),
    }


def _row_specs(shape: Shape) -> dict[str, TensorSpec]:
    """Of the keys, or the values, of any layer, by the end of their names."""
    fp16, int8, int4 = (shape.tokens[name] for name in ("FP16", "INT8", "INT4"))
    heads, head_dim, groups = shape.heads, shape.head_dim, shape.groups
    return {
        "fp16": TensorSpec(dtype=shape.raw_dtype, shape=(fp16, heads, head_dim)),
        "int8": TensorSpec(dtype="I8", shape=(int8, heads, head_dim)),
        "int8.scale": TensorSpec(dtype="F16", shape=(int8, heads, groups)),
        "int4": TensorSpec(dtype="U8", shape=(int4, heads, head_dim // 2)),
        "int4.scale": TensorSpec(dtype="F16", shape=(int4, heads, groups)),
        "int4.minimum": TensorSpec(dtype="F16", shape=(int4, heads, groups)),
    }
