"""The stored samples of a video: when they are, and where their rows lie in its files.

Nothing of a file is read but its tables, its index and the blocks that are asked for.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.evidence import end_of, sample_spans
from batch.kv.file_rows import FileRows
from batch.kv.rotation import RotationOf
from batch.kv.sample_bounds import SampleBounds
from cachefmt import CacheFile, KeyBounds
from cachefmt.layout import INDEX, TABLES, basis_name

KEPT_BYTES = 1 << 28
"""Decoded blocks that are kept for the next question, at most."""


class StoredSample(NamedTuple):
    """Its segment, and which of the samples stored there it is."""

    segment: int
    place: int


class Piece(NamedTuple):
    """Rows [start, stop) of a segment's file."""

    segment: int
    start: int
    stop: int


class StoredVideo:
    """The stored samples of all segments as one, and a reader of their rows.

    `stored` has them in order of time, `tokens` int64 [stored] the rows of each, text that goes
    with it included; `text_before` and `text_behind` are the text around all samples; `bounds` are
    those of each segment, of the keys of `index_layers`; `read_bytes` counts what was read of the
    files.
    """

    def __init__(
        self,
        segments: Sequence[CacheFile],
        rotation: RotationOf,
        *,
        device: torch.device | str = "cpu",
        end_s: float | None = None,
    ) -> None:
        """Read tables and indices of all segments of a video.

        A file without an index, that of a whole video, is decoded and one made.

        Args:
            rotation: of the model that wrote it; device: where blocks are decoded.
            end_s: as of `Retriever`.
        """
        self.segments = segments
        self.tables = [segment.tables for segment in segments]
        self._rows = [FileRows(segment, rotation, device) for segment in segments]
        self._decoded: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()
        self.read_bytes = sum(map(_opening_bytes, segments))
        shape = segments[0].header.shape
        self.index_layers = shape.index_layers or tuple(range(shape.layers))
        self.bounds = [self._bounds_of(number) for number in range(len(segments))]
        self.stored = [
            StoredSample(number, place)
            for number, tables in enumerate(self.tables)
            for place in range(len(tables.stored))
        ]
        self.tokens = np.concatenate([np.diff(tables.starts) for tables in self.tables])
        times_s = [tables.time_s for tables in self.tables]
        self._ends_s = [end_of(*pair) for pair in zip_longest(times_s, times_s[1:])]
        if end_s is not None:
            self._ends_s[-1] = end_s
        self.text_before = Piece(0, 0, int(self.tables[0].starts[0]))
        self.text_behind = self._text_behind()

    def numbers(self, chosen: Sequence[StoredSample]) -> list[int]:
        """Which samples of the video these are."""
        firsts = [segment.header.segment.first_sample for segment in self.segments]
        return [firsts[s] + int(self.tables[s].stored[place]) for s, place in chosen]

    def times_s(self, chosen: Sequence[StoredSample]) -> NDArray[np.float64]:
        """When these are on screen, [chosen]."""
        return np.array([self.tables[s].time_s[self.tables[s].stored[p]] for s, p in chosen])

    def spans_s(self, chosen: Sequence[StoredSample]) -> NDArray[np.float64]:
        """The times that these stand for, [chosen, 2]."""
        of_segment = {
            s: sample_spans(self.tables[s].time_s, self.tables[s].source, self._ends_s[s])
            for s in {s for s, _ in chosen}
        }
        return np.stack([of_segment[s][self.tables[s].stored[place]] for s, place in chosen])

    def pieces(self, chosen: Sequence[StoredSample]) -> list[Piece]:
        """Where the rows of samples chosen in order are; what lies in a row is one piece."""
        found: list[Piece] = []
        for segment, place in chosen:
            start, stop = map(int, self.tables[segment].starts[place : place + 2])
            if found and found[-1].segment == segment and found[-1].stop == start:
                found[-1] = found[-1]._replace(stop=stop)
            elif start < stop:
                found.append(Piece(segment, start, stop))
        return found

    @property
    def groups(self) -> list[range]:
        """Layers that are decoded together in every segment.

        Segments that keep a bound by different codecs may be cut into other groups.
        """
        held = [layers for rows in self._rows for layers in rows.groups]
        edges = {edge for layers in held for edge in (layers.start, layers.stop)}
        return [range(*pair) for pair in pairwise(sorted(edges))]

    def group_of(self, segment: int, layers: range) -> tuple[int, slice]:
        """The group of a segment that some layers are of, and which of its layers they are."""
        for group, held in enumerate(self._rows[segment].groups):
            if layers.start in held:
                return group, slice(layers.start - held.start, layers.stop - held.start)
        raise ValueError(f"layers {layers} are in no group of segment {segment}")

    def blocks(self, piece: Piece) -> list[tuple[int, range]]:
        """The numbers of the blocks that hold a piece, and which of the rows of each it has."""
        found = []
        for number, rows in enumerate(self._rows[piece.segment].blocks):
            start, stop = max(rows.start, piece.start), min(rows.stop, piece.stop)
            if start < stop:
                found.append((number, range(start - rows.start, stop - rows.start)))
        return found

    def states(self, segment: int, number: int, group: int) -> Tensor:
        """Unrotated keys, and values, of a block: [rows, layers of the group, 2, heads, head_dim].

        Blocks are kept for a while; do not write into them.
        """
        key, decoded = (segment, number, group), self._decoded
        if key not in decoded:
            self.read_bytes += self._rows[segment].read_bytes(number, group)
            decoded[key] = self._rows[segment].states(number, group)
            held = sum(states.nbytes for states in decoded.values())
            while held > KEPT_BYTES and len(decoded) > 1:
                held -= decoded.popitem(last=False)[1].nbytes
        decoded.move_to_end(key)
        return decoded[key]

    def naming(self, segment: int, number: int, group: int) -> AbstractContextManager[None]:
        """Turns a ValueError about the numbers of a block into a CacheFileError."""
        return self._rows[segment].naming(number, group)

    def _bounds_of(self, number: int) -> KeyBounds:
        segment, rows = self.segments[number], self._rows[number]
        if segment.index is not None:
            self.read_bytes += segment.tensor_bytes(INDEX)
            return segment.index
        shape = replace(segment.header.shape, index_layers=self.index_layers)
        bounds = SampleBounds(shape, self.tables[number])
        for block, within in enumerate(rows.blocks):
            taken = slice(within.start, within.stop)
            samples = bounds.samples(taken)
            for group, layers in enumerate(rows.groups):
                indexed = [layer for layer in self.index_layers if layer in layers]
                if not indexed or not len(samples):
                    continue
                states = self.states(number, block, group)
                keys = states[:, [layer - layers.start for layer in indexed], 0]
                places = [self.index_layers.index(layer) for layer in indexed]
                bounds.put(samples, places, bounds.of(taken, keys).cpu())
        return bounds.bounds()

    def _text_behind(self) -> Piece:
        """The text behind all samples, which goes with the last one."""
        segment, place = self.stored[-1]
        start, stop = map(int, self.tables[segment].starts[place : place + 2])
        sample = self.tables[segment].sample[start:stop]
        texts = int(np.argmax(np.append(sample[::-1] >= 0, True)))
        return Piece(segment, stop - texts, stop)


def _opening_bytes(segment: CacheFile) -> int:
    """What is read of a file before any block: header, tables, bases."""
    bases = range(segment.header.group_count if segment.header.codec.has_bases else 0)
    names = [TABLES, *map(basis_name, bases)]
    return segment.header_size_bytes + sum(map(segment.tensor_bytes, names))
