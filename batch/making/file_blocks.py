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
from cachefmt.codecs.basis import Basis

FITTED_NUMBERS = 1 << 27
"""Keys and values that wait until a file's own bases are fitted to them: 256 MiB at 16 bits.

Source: a film of 27 samples of the demo world, every slot, step 1: with bases fitted to the first
16 samples the KL of answers is 0.35, to all of them 0.007.
"""


class FileBlocks(Protocol):
    """Writes the blocks of a file in order."""

    def add(self, computed: Computed) -> None:
        """Take a block that the prefix keeps already, and write what is complete."""

    def finish(self) -> None:
        """Write what waits; nothing more comes."""


def file_blocks(
    planned: CachePlan, family: Family, prefix: Prefix, writer: CacheWriter, behind: WriteBehind
) -> FileBlocks:
    """Those of the codec that is planned."""
    if planned.header.codec.name == "plain":
        return PlainBlocks(planned, prefix, writer, behind)
    return KltBlocks(planned, family, prefix.raw_dtype, writer, behind)


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
        self.write_until(computed.block.stop)

    def finish(self) -> None:
        pass  # the last block was complete

    def write_until(self, stop: int) -> None:
        """Write the blocks that are complete once the prefix holds so many of the plan's tokens."""
        for number, rows in self._blocks.until(stop):
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
    Later blocks attend to the rows of memory, which were made of exact ones, not to what these
    blocks decode to: so nothing waits for the encoding.
    Source: 47 questions about 3 films of the demo world, step 1.4. Rows decoded of a file that was
    computed so give 38 right answers, 46 of them those of exact rows, at a KL of 0.0216; of one
    whose blocks attend to what earlier ones decode to 38, 46 and 0.0217.

    Without a calibration, blocks wait until there are `FITTED_NUMBERS`, to which bases are fitted:
    what comes later and is unlike all of them is lost.
    """

    def __init__(
        self,
        planned: CachePlan,
        family: Family,
        dtype: torch.dtype,
        writer: CacheWriter,
        behind: WriteBehind,
    ) -> None:
        """dtype: of raw rows."""
        self._codec = planned.header.codec
        self._writer, self._behind = writer, behind
        self._gathering = _Gathering(planned, family, dtype)
        self._rows = planned.tables.blocks(self._codec.block_samples, self._codec.text_tokens)
        self._places = planned.tables.places(planned.header.shape)
        self._bases: list[Basis] = []
        self._waiting: list[list[Tensor]] = []
        self._under_way: list[Tensor] = []
        self._step = self._codec.step or 0.0
        if planned.calibration is not None:
            shape = planned.header.shape
            self._bases = planned.calibration.bases(shape.rows, shape.columns)

    def add(self, computed: Computed) -> None:
        for number, groups in self._gathering.add(computed):
            self._behind.finish()  # no more than one block waits
            self.put(number, groups)

    def put(self, number: int, groups: list[Tensor]) -> None:
        """Write a block of rows [tokens, layers, 2, heads, head_dim] of each group of layers."""
        if self._codec.has_bases and not self._bases:
            self._waiting.append(groups)
            held = sum(states.numel() for block in self._waiting for states in block)
            if held >= FITTED_NUMBERS:
                self._behind.put([], self._fit)
            return
        place = self._places_of(number)
        # Let go by the thread that made it: torch counts what each thread allocates and frees.
        self._under_way = groups
        for group, states in enumerate(groups):
            self._behind.put([], partial(self._encode, number, group, states, place))

    def finish(self) -> None:
        self._behind.finish()
        if self._waiting:
            self._behind.put([], self._fit)

    def _fit(self, _: list[Tensor]) -> None:
        """Make the file's own bases of the blocks that wait, and write both."""
        places = np.concatenate([self._places_of(number) for number in range(len(self._waiting))])
        for group, of_blocks in enumerate(zip(*self._waiting, strict=True)):
            packed = bases.pack(torch.cat(of_blocks)[torch.from_numpy(places >= 0)], self._step)
            self._bases.append(bases.unpack(packed, bases.shape_of(of_blocks[0])))
            self._writer.write_basis(group, packed)
        for number, groups in enumerate(self._waiting):
            for group, states in enumerate(groups):
                self._encode(number, group, states, self._places_of(number), [])
        self._waiting.clear()

    def _places_of(self, number: int) -> NDArray[np.int64]:
        rows = self._rows[number]
        return self._places[rows.start : rows.stop]

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


class KeptBlocks:
    """Blocks of unrotated keys and values that stay in memory, to be written any number of times.

    All rows of a file in the type of raw rows, on the CPU.
    """

    def __init__(self, planned: CachePlan, family: Family, dtype: torch.dtype) -> None:
        """dtype: of raw rows."""
        self._gathering = _Gathering(planned, family, dtype)
        self._kept: list[list[Tensor]] = []
        self._devices = [family.layer_devices[layers.start] for layers in planned.header.groups()]

    def add(self, computed: Computed) -> None:
        self._kept += [
            [states.cpu() for states in groups] for _, groups in self._gathering.add(computed)
        ]

    def finish(self) -> None:
        pass  # the last block was complete

    def write(self, blocks: KltBlocks, behind: WriteBehind) -> None:
        """Write all blocks of a file by the plan and the writer that these blocks have."""
        for number, kept in enumerate(self._kept):
            pairs = zip(kept, self._devices, strict=True)
            blocks.put(number, [states.to(device) for states, device in pairs])
            behind.finish()
        blocks.finish()
        behind.finish()


class _Gathering:
    """Gathers unrotated keys and values until blocks of a file are complete."""

    def __init__(self, planned: CachePlan, family: Family, dtype: torch.dtype) -> None:
        self._planned, self._family, self._dtype = planned, family, dtype
        self._groups = planned.header.groups()
        self._blocks = _Complete(planned)
        self._gathered: dict[tuple[int, int], Tensor] = {}

    def add(self, computed: Computed) -> Iterator[tuple[int, list[Tensor]]]:
        """Numbers of the blocks that are complete with these rows, and their groups of layers."""
        block = computed.block
        for group, layers in enumerate(self._groups):
            states = unrotated(computed, self._planned, self._family, layers, self._dtype)
            for number, rows in self._blocks.within(block):
                start, stop = max(rows.start, block.start), min(rows.stop, block.stop)
                held = self._gathered.get((number, group))
                if held is None:
                    held = states.new_empty(len(rows), *states.shape[1:])
                    self._gathered[number, group] = held
                taken = states[start - block.start : stop - block.start]
                held[start - rows.start : stop - rows.start] = taken
        for number, _ in self._blocks.until(block.stop):
            yield (
                number,
                [self._gathered.pop((number, group)) for group in range(len(self._groups))],
            )


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
