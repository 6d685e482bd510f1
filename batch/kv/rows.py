"""The rows of one layer and tier as they lie in memory, decoded chunk by chunk.

What they lie in is a tier's encoding (`cachefmt.tiers`); knows nothing of files, models and
attention.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
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

    def take(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A buffer [rows, heads, head_dim]; what it holds is left over from its last use."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype, device))
        if buffer is None or buffer.numel() < size:
            # An inference tensor could not be written to outside inference mode later.
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=dtype, device=device)
            self._buffers[name, dtype, device] = buffer
        return buffer[:size].view(shape)


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
        """All rows in order, at most `chunk_rows` at a time; see `chunks_of`."""
        return chunks_of([self], dtype, chunk_rows)

    def keys(self, dtype: torch.dtype, chunk_rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Key and bias of each of `chunks`; no value is decoded."""
        for start in range(0, len(self), chunk_rows):
            rows = slice(start, start + chunk_rows)
            bias = None if self.bias is None else self.bias[rows]
            yield _gather("key", [(self, rows)], dtype), bias

    def parts(self, kind: str) -> tuple[Tensor, ...]:
        """Of keys or of values."""
        return self.key if kind == "key" else self.value

    @property
    def head_dim(self) -> int:
        return self.key[0].shape[-1] * (self.tier.parts[0].channels or 1)


Piece = tuple[StoredRows, slice]
"""Some of the rows of a tier."""


def chunks_of(parts: Sequence[StoredRows], dtype: torch.dtype, chunk_rows: int) -> Iterator[Chunk]:
    """All rows of parts of one layer in order, at most `chunk_rows` at a time.

    The end of a part and the start of the next lie in one chunk: what attends to a chunk costs
    more than what few rows are worth. A chunk that is stored in `dtype` already is viewed, not
    copied. Else computed in float32 and rounded once, in the scratch.
    """
    for pieces in _cut(parts, chunk_rows):
        key, value = (_gather(kind, pieces, dtype) for kind in ("key", "value"))
        yield Chunk(key, value, _gather_bias(pieces))


def _cut(parts: Sequence[StoredRows], chunk_rows: int) -> Iterator[list[Piece]]:
    """The pieces of each chunk."""
    pieces: list[Piece] = []
    room = chunk_rows
    for part in parts:
        start = 0
        while start < len(part):
            stop = min(len(part), start + room)
            pieces.append((part, slice(start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield pieces
                pieces, room = [], chunk_rows
    if pieces:
        yield pieces


def _length(piece: Piece) -> int:
    part, rows = piece
    return len(range(*rows.indices(len(part))))


def _gather(kind: str, pieces: Sequence[Piece], dtype: torch.dtype) -> Tensor:
    """Keys or values [rows, heads, head_dim] of all pieces."""
    first, rows = pieces[0]
    codes = first.parts(kind)[0]
    if len(pieces) == 1 and codes.dtype == dtype:
        return codes[rows]
    shape = (sum(map(_length, pieces)), codes.shape[1], first.head_dim)
    out = first.scratch.take(kind, shape, dtype, codes.device)
    ends = list(accumulate(map(_length, pieces), initial=0))
    for (part, taken), start, stop in zip(pieces, ends, ends[1:], strict=False):
        _decode([stored[taken] for stored in part.parts(kind)], part, out[start:stop])
    return out


def _decode(stored: list[Tensor], rows: StoredRows, out: Tensor) -> None:
    """Decode some rows into `out` [rows, heads, head_dim], contiguous."""
    if len(stored) == 1:
        out.copy_(stored[0])
        return
    if out.is_cuda and (decode_rows := _fused_decoding()) is not None:
        decode_rows(stored, out)
        return
    exact = out
    if out.dtype != torch.float32:
        exact = rows.scratch.take("exact", tuple(out.shape), torch.float32, out.device)
    rows.tier.codec.decode(*stored, out=exact)
    if exact is not out:
        out.copy_(exact)


def _gather_bias(pieces: Sequence[Piece]) -> Tensor | None:
    """Float32 [rows] of all pieces, None if none of them has a bias."""
    biases = [None if part.bias is None else part.bias[rows] for part, rows in pieces]
    if all(bias is None for bias in biases):
        return None
    if len(pieces) == 1:
        return biases[0]
    device = pieces[0][0].key[0].device
    return torch.cat(
        [
            torch.zeros(_length(piece), device=device) if bias is None else bias
            for piece, bias in zip(pieces, biases, strict=True)
        ]
    )


@functools.cache
def _fused_decoding() -> Callable[[list[Tensor], Tensor], None] | None:
    """Triton's decoding of some rows in one launch; None if there is no Triton."""
    try:
        from batch.kv.triton_decoding import decode_rows
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return decode_rows
