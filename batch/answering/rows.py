"""Rows of a video's files, read piece by piece: nothing else of a file is touched."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cachefmt import STORED_TIERS, CacheFile, CacheFileError, SampleIndex, Tier
from cachefmt.layout import row_tensors
from cachefmt.tensors import as_tensor


class Chosen(NamedTuple):
    """A stored sample: its segment, and which of the samples stored there it is."""

    segment: int
    place: int


class Piece(NamedTuple):
    """Rows [start, stop) of a tier in a segment's file."""

    segment: int
    tier: Tier
    start: int
    stop: int


def pieces_of(indices: Sequence[SampleIndex], chosen: Sequence[Chosen]) -> list[Piece]:
    """Where the rows of chosen samples are; what lies behind each other is one piece.

    Args:
        chosen: in order of time.
    """
    found: list[Piece] = []
    for tier in STORED_TIERS:
        for segment, place in chosen:
            rows = indices[segment].rows(place, tier)
            if found and found[-1][:2] == (segment, tier) and found[-1].stop == rows.start:
                found[-1] = found[-1]._replace(stop=rows.stop)
            elif rows.start < rows.stop:
                found.append(Piece(segment, tier, rows.start, rows.stop))
    return found


def text_before(indices: Sequence[SampleIndex]) -> Piece:
    """The text before all samples of a video."""
    return Piece(0, Tier.FP16, 0, int(indices[0].first_row[0, Tier.FP16]))


class RowReader:
    """Reads from the files of a video and counts the bytes."""

    def __init__(self, segments: Sequence[CacheFile]) -> None:
        self.segments = segments
        self.read_bytes = 0

    def text_behind(self, indices: Sequence[SampleIndex]) -> Piece:
        """Find the text behind all samples of a video, which is stored with the last one."""
        segment = len(self.segments) - 1
        rows = indices[segment].rows(len(indices[segment].stored) - 1, Tier.FP16)
        sample = self.table("sample", Piece(segment, Tier.FP16, rows.start, rows.stop))
        texts = int(np.argmax(np.append(sample[::-1] >= 0, True)))
        return Piece(segment, Tier.FP16, rows.stop - texts, rows.stop)

    def table(self, name: str, piece: Piece) -> NDArray[np.int64]:
        """A column of the token tables, [rows, ...]."""
        first = self.segments[piece.segment].header.shape.rows_of(piece.tier).start
        column = self._read(f"token.{name}", piece, first)
        return column.astype(np.int64)

    def states(self, layer: int, kind: str, piece: Piece) -> Tensor:
        """Decoded keys or values, float32 [rows, heads, head_dim]."""
        dtype = self.segments[piece.segment].dtype
        return piece.tier.codec.decode(
            *(
                as_tensor(self._read(name, piece), dtype(name))
                for name in row_tensors(layer, kind, piece.tier)
            )
        )

    def refuse(self, segment: int, problem: str) -> CacheFileError:
        """What to raise for rows that cannot be used."""
        path = self.segments[segment].path
        return CacheFileError(path, f"{problem}; batch verify names what is damaged")

    def _read(self, name: str, piece: Piece, first: int = 0) -> NDArray[Any]:
        rows = self.segments[piece.segment].read(name, first + piece.start, first + piece.stop)
        self.read_bytes += rows.nbytes
        return rows
