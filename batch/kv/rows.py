"""Stored rows of one layer and tier, decoded chunk by chunk into a buffer that is used again.

One class an encoding. Knows what the codecs of `cachefmt` mean, not where the tensors lie.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from batch.kv.attention import Chunk, Stored, StoredRows


class Keys(NamedTuple):
    """The keys of a `Chunk`: [rows, kv_heads, head_dim], and the bias of their scores."""

    key: Tensor
    bias: Tensor | None


class Scratch:
    """A float32 key and a value buffer of one chunk and device, shared by all rows of a prefix.

    So decoding allocates nothing per chunk. A chunk is overwritten by the next one: one prefix
    must not be read from two threads at once.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, like: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        """A buffer [rows, heads, head_dim] for rows of `like` [rows, heads, ...], on its device."""
        rows, heads = like.shape[:2]
        size = rows * heads * head_dim
        buffer = self._buffers.get((name, dtype, like.device))
        if buffer is None or buffer.numel() < size:
            # An inference tensor could not be written to outside inference mode later.
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=dtype, device=like.device)
            self._buffers[name, dtype, like.device] = buffer
        return buffer[:size].view(rows, heads, head_dim)


@dataclass(frozen=True, kw_only=True)
class RawRows:
    """Rows as the model made them: key, value [rows, heads, head_dim]; bias float32 [rows]."""

    key: Tensor
    value: Tensor
    bias: Tensor | None
    scratch: Scratch

    def __len__(self) -> int:
        """Rows."""
        return self.key.shape[0]

    def chunks(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[Chunk]:
        """Views of the stored rows; copies only where the dtype differs."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            yield Chunk(
                key=self._cast("key", self.key[rows], dtype),
                value=self._cast("value", self.value[rows], dtype),
                bias=None if self.bias is None else self.bias[rows],
            )

    def keys(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[Keys]:
        """As `chunks`, without values."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            yield Keys(
                key=self._cast("key", self.key[rows], dtype),
                bias=None if self.bias is None else self.bias[rows],
            )

    def stored(self) -> StoredRows:
        """The rows themselves."""
        return StoredRows(
            key=Stored(codes=self.key, scale=None, minimum=None),
            value=Stored(codes=self.value, scale=None, minimum=None),
            bias=self.bias,
        )

    def _cast(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        if rows.dtype == dtype:
            return rows
        return self.scratch.take(name, rows, rows.shape[-1], dtype).copy_(rows)


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """One kind (key or value) in codes, per row, head and group of channels.

    minimum None: symmetric, int8 codes [rows, heads, head_dim]. Otherwise: uint8 codes
    [rows, heads, head_dim / 2], channel j in the low and j + head_dim / 2 in the high nibble of
    byte j. scale, minimum: float16 [rows, heads, groups].
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None

    def decode(self, rows: slice, name: str, scratch: Scratch, dtype: torch.dtype) -> Tensor:
        """Rows in `dtype`, [rows, heads, head_dim], inside `scratch`.

        Computed in float32 and rounded once, so it equals the codec's own decoding.
        """
        codes, groups = self.codes[rows], self.scale.shape[-1]
        head_dim = codes.shape[-1] * (1 if self.minimum is None else 2)
        out = scratch.take(name, codes, head_dim, torch.float32)
        grouped = out.view(*out.shape[:2], groups, head_dim // groups)
        if self.minimum is None:
            out.copy_(codes)
            grouped.mul_(self.scale[rows].unsqueeze(-1))
        else:
            low, high = out.chunk(2, dim=-1)
            low.copy_(codes & 0x0F)
            high.copy_(codes >> 4)
            grouped.mul_(self.scale[rows].unsqueeze(-1)).add_(self.minimum[rows].unsqueeze(-1))
        if dtype == torch.float32:
            return out
        return scratch.take(name, out, head_dim, dtype).copy_(out)


@dataclass(frozen=True, kw_only=True)
class QuantisedRows:
    """Rows of the INT8 or INT4 tier; bias float32 [rows] or None."""

    key: Quantised
    value: Quantised
    bias: Tensor | None
    scratch: Scratch

    def __len__(self) -> int:
        """Rows."""
        return self.key.codes.shape[0]

    def chunks(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[Chunk]:
        """Decoded into the scratch, so a chunk is gone when the next one comes."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            yield Chunk(
                key=self.key.decode(rows, "key", self.scratch, dtype),
                value=self.value.decode(rows, "value", self.scratch, dtype),
                bias=None if self.bias is None else self.bias[rows],
            )

    def keys(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[Keys]:
        """As `chunks`, without values."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            yield Keys(
                key=self.key.decode(rows, "key", self.scratch, dtype),
                bias=None if self.bias is None else self.bias[rows],
            )

    def stored(self) -> StoredRows:
        """Codes, scales and minima."""
        return StoredRows(
            key=Stored(self.key.codes, self.key.scale, self.key.minimum),
            value=Stored(self.value.codes, self.value.scale, self.value.minimum),
            bias=self.bias,
        )
