"""The stored samples of a video: when they are, and where their rows lie in its files.

Nothing of a file is read but its index and the pieces that are asked for.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.evidence import end_of, sample_spans
from cachefmt import STORED_TIERS, CacheFile, CacheFileError, SampleIndex, Tier, tensor_specs
from cachefmt.layout import row_tensors
from cachefmt.tensors import as_tensor


class StoredSample(NamedTuple):
    """Its segment, and which of the samples stored there it is."""

    segment: int
    place: int


class Piece(NamedTuple):
    """Rows [start, stop) of a tier in a segment's file."""

    segment: int
    tier: Tier
    start: int
    stop: int


class StoredVideo:
    """The stored samples of all segments as one, and a reader of their rows.

    `stored` has them in order of time, `tokens` int64 [stored] the rows of each; `text_before` and
    `text_behind` are the text around all samples; `read_bytes` counts what was read of the files.
    """

    def __init__(self, segments: Sequence[CacheFile], *, end_s: float | None = None) -> None:
        """Read the indices of all segments of a video; `end_s` is as of `Retriever`."""
        self.segments = segments
        self.indices = [SampleIndex.read(segment) for segment in segments]
        self.read_bytes = sum(index.size_bytes for index in self.indices)
        for segment in segments:  # its header
            specs = tensor_specs(segment.header.shape).values()
            self.read_bytes += segment.size_bytes - sum(spec.size_bytes for spec in specs)
        self.stored = [
            StoredSample(number, place)
            for number, index in enumerate(self.indices)
            for place in range(len(index.stored))
        ]
        self.tokens = np.concatenate([index.tokens for index in self.indices])
        times_s = [index.time_s for index in self.indices]
        self._ends_s = [end_of(*pair) for pair in zip_longest(times_s, times_s[1:])]
        if end_s is not None:
            self._ends_s[-1] = end_s
        self.text_before = Piece(0, Tier.FP16, 0, self.indices[0].rows(0, Tier.FP16).start)
        self.text_behind = self._text_behind()

    def numbers(self, chosen: Sequence[StoredSample]) -> list[int]:
        """Which samples of the video these are."""
        firsts = [segment.header.segment.first_sample for segment in self.segments]
        return [firsts[s] + int(self.indices[s].stored[place]) for s, place in chosen]

    def times_s(self, chosen: Sequence[StoredSample]) -> NDArray[np.float64]:
        """When these are on screen, [chosen]."""
        return np.array([self.indices[s].time_s[self.indices[s].stored[p]] for s, p in chosen])

    def spans_s(self, chosen: Sequence[StoredSample]) -> NDArray[np.float64]:
        """The times that these stand for, [chosen, 2]."""
        of_segment = {
            s: sample_spans(self.indices[s].time_s, self.indices[s].source, self._ends_s[s])
            for s in {s for s, _ in chosen}
        }
        return np.stack([of_segment[s][self.indices[s].stored[place]] for s, place in chosen])

    def pieces(self, chosen: Sequence[StoredSample]) -> list[Piece]:
        """Where the rows of samples chosen in order are; what lies in a row is one piece."""
        found: list[Piece] = []
        for tier in STORED_TIERS:
            for segment, place in chosen:
                rows = self.indices[segment].rows(place, tier)
                if found and found[-1][:2] == (segment, tier) and found[-1].stop == rows.start:
                    found[-1] = found[-1]._replace(stop=rows.stop)
                elif rows.start < rows.stop:
                    found.append(Piece(segment, tier, rows.start, rows.stop))
        return found

    def table(self, name: str, piece: Piece) -> NDArray[np.int64]:
        """A column of the token tables, [rows, ...]."""
        first = self.segments[piece.segment].header.shape.rows_of(piece.tier).start
        return self._read(f"token.{name}", piece, first).astype(np.int64)

    def states(self, layer: int, kind: str, piece: Piece) -> Tensor:
        """Decoded keys or values, float32 [rows, heads, head_dim]."""
        dtype = self.segments[piece.segment].dtype
        parts = (
            as_tensor(self._read(name, piece), dtype(name))
            for name in row_tensors(layer, kind, piece.tier)
        )
        return piece.tier.codec.decode(*parts)

    def unusable(self, segment: int, problem: str) -> CacheFileError:
        """What to raise for rows that cannot be used."""
        path = self.segments[segment].path
        return CacheFileError(path, f"{problem}; batch verify names what is damaged")

    def _text_behind(self) -> Piece:
        """The text behind all samples, which is stored with the last one."""
        segment, place = self.stored[-1]
        rows = self.indices[segment].rows(place, Tier.FP16)
        sample = self.table("sample", Piece(segment, Tier.FP16, rows.start, rows.stop))
        texts = int(np.argmax(np.append(sample[::-1] >= 0, True)))
        return Piece(segment, Tier.FP16, rows.stop - texts, rows.stop)

    def _read(self, name: str, piece: Piece, first: int = 0) -> NDArray[Any]:
        rows = self.segments[piece.segment].read(name, first + piece.start, first + piece.stop)
        self.read_bytes += rows.nbytes
        return rows
