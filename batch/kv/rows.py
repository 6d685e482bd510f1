"""The rows of one layer and tier as they lie in memory, decoded chunk by chunk.

What they lie in is a tier's encoding (`cachefmt.tiers`); knows nothing of files, models and
attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cachefmt.tiers import Tier


class Chunk(NamedTuple):
    """Some rows [rows, kv_heads, head_dim] in the compute dtype; valid until the next chunk.

    bias: float32 [rows], added to the scores of a row for every query; None = zero.
    """

    key: Tensor
    value: Tensor
    bias: Tensor | None


class Scratch:
    """A key and a value buffer for each dtype and device, shared by all rows of a prefix.

    So decoding allocates nothing per chunk; two threads must not read one prefix at once.
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
class StoredRows:
    """Rows as a tier's codec encodes them: parts [rows, heads, ...] of keys and of values."""

    tier: Tier
    key: tuple[Tensor, ...]
    value: tuple[Tensor, ...]
    bias: Tensor | None
    """As of `Chunk`."""
    scratch: Scratch

    def __len__(self) -> int:
        return self.key[0].shape[0]

    def chunks(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[Chunk]:
        """All rows in order, at most `chunk_rows` at a time.

        What is stored in `dtype` is viewed, not copied. Else computed in float32 and rounded once,
        in the scratch.
        """
        for index, (key, bias) in enumerate(self.keys(dtype, chunk_rows)):
            rows = slice(index * chunk_rows, (index + 1) * chunk_rows)
            yield Chunk(key, self._decode("value", self.value, rows, dtype), bias)

    def keys(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Key and bias of each of `chunks`; no value is decoded."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            bias = None if self.bias is None else self.bias[rows]
            yield self._decode("key", self.key, rows, dtype), bias

    def _decode(
        self, name: str, parts: tuple[Tensor, ...], rows: slice, dtype: torch.dtype
    ) -> Tensor:
        codes = parts[0][rows]
        if codes.dtype == dtype:
            return codes
        head_dim = codes.shape[-1] * (self.tier.parts[0].channels or 1)
        out = self.scratch.take(name, codes, head_dim, torch.float32)
        self.tier.codec.decode(*(part[rows] for part in parts), out=out)
        if dtype == torch.float32:
            return out
        return self.scratch.take(name, out, head_dim, dtype).copy_(out)
