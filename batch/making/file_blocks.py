"""From computed blocks to those of a file: what is complete is encoded and written, behind them.

Blocks of a file have a size of their own, which the prefill's does not change.
"""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv import Prefix
from batch.making.cache_plan import CachePlan
from batch.making.computing import Computed, unrotated
from batch.making.write_behind import WriteBehind
from batch.models import Family
from cachefmt import STORED_TIERS, CacheWriter, Tier
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt, plain
from cachefmt.codecs.basis import Basis, Moments


class FileBlocks(Protocol):
    """Writes the blocks of a file in order."""

    def add(self, computed: Computed) -> None:
        """Take a block that the prefix keeps already, and write what is complete."""


def file_blocks(
    planned: CachePlan, family: Family, prefix: Prefix, writer: CacheWriter, behind: WriteBehind
) -> FileBlocks:
    """Those of the codec that is planned."""
    if planned.header.codec.name == "plain":
        return PlainBlocks(planned, prefix, writer, behind)
    return KltBlocks(planned, family, prefix, writer, behind)


class PlainBlocks:
    """Blocks of what the prefix holds."""

    def __init__(
        self, planned: CachePlan, prefix: Prefix, writer: CacheWriter, behind: WriteBehind
    ) -> None:
        self._prefix, self._writer, self._behind = prefix, writer, behind
        self._blocks = _Complete(planned)
        self._tables = planned.tables
        self._filled = dict.fromkeys(STORED_TIERS, 0)

    def add(self, computed: Computed) -> None:
        for number, rows in self._blocks.until(computed.block.stop):
            tensors: list[Tensor] = []
            tiers: list[Tier] = []
            for tier, count in self._tables.counts(rows).items():
                taken = slice(self._filled[tier], self._filled[tier] + count)
                self._filled[tier] = taken.stop
                for parts in self._prefix.rows(tier, taken):
                    tiers.append(tier)
                    tensors += parts
            self._behind.put(tensors, partial(self._write, number, tiers))

    def _write(self, number: int, tiers: list[Tier], tensors: list[Tensor]) -> None:
        """Write a block; of each tier and run of layers the parts."""
        runs: dict[Tier, list[tuple[Tensor, ...]]] = {}
        rest = iter(tensors)
        for tier in tiers:
            parts = tuple(next(rest) for _ in tier.parts)
            tier.codec.check(*parts)  # of CUDA nobody has yet
            runs.setdefault(tier, []).append(parts)
        whole = {
            tier: tuple(
                torch.cat(parts) if len(parts) > 1 else parts[0]
                for parts in zip(*of_runs, strict=True)
            )
            for tier, of_runs in runs.items()
        }
        self._writer.write_block(number, 0, plain.encode(whole))


class KltBlocks:
    """Blocks of unrotated keys and values, which are gathered until a block is complete.

    One block is gathered while the one before it is encoded, on the device where its layers are.
    """

    def __init__(
        self,
        planned: CachePlan,
        family: Family,
        prefix: Prefix,
        writer: CacheWriter,
        behind: WriteBehind,
    ) -> None:
        self._planned, self._family, self._prefix = planned, family, prefix
        self._writer, self._behind = writer, behind
        self._blocks = _Complete(planned)
        self._groups = planned.header.groups()
        self._places = planned.tables.places(planned.header.shape)
        self._gathered: dict[tuple[int, int], Tensor] = {}
        self._bases: list[Basis] = []
        self._step = planned.header.codec.step or 0.0
        if planned.calibration is not None:
            shape = planned.header.shape
            places = int(self._places.max(initial=0)) + 1
            self._bases = planned.calibration.bases(shape.rows, shape.columns, places)

    def add(self, computed: Computed) -> None:
        for group, layers in enumerate(self._groups):
            dtype = self._prefix.raw_dtype
            states = unrotated(computed, self._planned, self._family, layers, dtype)
            for number, rows in self._blocks.within(computed.block):
                start, stop = (
                    max(rows.start, computed.block.start),
                    min(rows.stop, computed.block.stop),
                )
                held = self._gathered.get((number, group))
                if held is None:
                    held = states.new_empty(len(rows), *states.shape[1:])
                    self._gathered[number, group] = held
                taken = states[start - computed.block.start : stop - computed.block.start]
                held[start - rows.start : stop - rows.start] = taken
        for number, rows in self._blocks.until(computed.block.stop):
            self._behind.finish()  # no more than one block waits
            gathered = [self._gathered.pop((number, group)) for group in range(len(self._groups))]
            place = self._places[rows.start : rows.stop]
            if number == 0 and self._planned.header.codec.has_bases:
                for group, states in enumerate(gathered):
                    self._behind.put([], partial(self._fit, group, states, place))
            for group, states in enumerate(gathered):
                self._behind.put([], partial(self._encode, number, group, states, place))

    def _fit(self, group: int, states: Tensor, place: NDArray[np.int64], _: list[Tensor]) -> None:
        """Make the file's own basis of a group from its first block."""
        shape = (len(self._groups[group]), 2, *states.shape[3:])
        moments = Moments(shape)
        moments.add(states[torch.from_numpy(place >= 0)], place[place >= 0])
        packed = bases.pack(moments, self._step)
        self._bases.append(bases.unpack(packed, shape))
        self._writer.write_basis(group, packed)

    def _encode(
        self,
        number: int,
        group: int,
        states: Tensor,
        place: NDArray[np.int64],
        _: list[Tensor],
    ) -> None:
        basis = self._bases[group].to(states.device)
        self._bases[group] = basis
        data = klt.encode(states, basis, step=self._step, place=place)
        self._writer.write_block(number, group, data)


class _Complete:
    """The blocks of a file about to be written, as computation goes on."""

    def __init__(self, planned: CachePlan) -> None:
        codec = planned.header.codec
        self._rows = planned.tables.blocks(codec.block_samples, codec.text_tokens)
        self._done = 0

    def within(self, computed: slice) -> Iterator[tuple[int, range]]:
        """Those that rows which were computed just now are of, or could be."""
        for number in range(self._done, len(self._rows)):
            rows = self._rows[number]
            if rows.start < computed.stop or rows.stop <= computed.stop:
                yield number, rows

    def until(self, stop: int) -> Iterator[tuple[int, range]]:
        """Those that are complete once so many rows are computed; each once."""
        while self._done < len(self._rows) and self._rows[self._done].stop <= stop:
            self._done += 1
            yield self._done - 1, self._rows[self._done - 1]
