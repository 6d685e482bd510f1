"""The rows of all layers by tier, in memory: filled from a model run or from a file.

Knows the tiers and the layout of `cachefmt`; knows no model and no question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from batch.kv.file_rows import FileRows
from batch.kv.rotation import RotationOf
from batch.kv.rows import Scratch, StoredRows
from cachefmt.layout import KINDS, kv_bytes, row_specs
from cachefmt.reader import CacheFile
from cachefmt.tensors import TORCH_DTYPES
from cachefmt.tiers import STORED_TIERS, Tier

if TYPE_CHECKING:
    from transformers import DynamicCache

    from cachefmt.header import Shape

CHUNK_ROWS = 1024
"""Rows that `to_dynamic_cache` expands at a time."""

Devices = torch.device | str | Sequence[torch.device]
"""One device for all layers, or that of each layer."""

Layer = dict[tuple[Tier, str], tuple[Tensor, ...]]
"""What the codec of each tier makes of a layer's rows, by tier and kind."""


class Prefix:
    """Keys and values of everything before the question: one copy, read by any number of queries.

    Rows of a layer and tier are filled from row 0 on; what is not filled yet is not seen. Not for
    two threads at once: decoding shares one buffer.
    """

    def __init__(self, shape: Shape, runs: Sequence[_Run]) -> None:
        """Use `allocate` or `load`."""
        self.shape = shape
        self._runs = runs
        self._layers = [layer for run in runs for layer in run.views()]
        self._devices = [layer[Tier.FP16, "key"][0].device for layer in self._layers]
        self._scratch = Scratch()
        self._bias: dict[Tier, dict[torch.device, Tensor]] = {}
        self._multiplicity: dict[Tier, Tensor] = {}
        self._filled = [dict.fromkeys(STORED_TIERS, 0) for _ in self._layers]

    @classmethod
    def allocate(cls, shape: Shape, devices: Devices) -> Prefix:
        """Reserve memory for all rows."""
        return cls(shape, _room(shape, _each(devices, shape)))

    @classmethod
    def load(
        cls, cache_file: CacheFile, devices: Devices, rotation: RotationOf | None = None
    ) -> Prefix:
        """Take all rows of a file, block by block; it may be closed then.

        Args:
            rotation: of the model that wrote it; plain files do without.

        Raises:
            CacheFileError: names the block that is damaged or cannot be decoded, or the
                calibration that is missing.
        """
        tables = cache_file.tables
        prefix = cls.allocate(cache_file.header.shape, devices)
        for tier in STORED_TIERS:
            counts = torch.from_numpy(tables.multiplicity[tables.rows(tier)])
            prefix.set_multiplicity(tier, counts)
        # Layers of one group may be on several devices; it is decoded on that of the first layer.
        rows = FileRows(cache_file, rotation, prefix._devices[0])
        for number, (group, layers) in product(range(len(rows.blocks)), enumerate(rows.groups)):
            for tier, parts in rows.encoded(number, group).items():
                prefix._place(layers.start, tier, parts)
        return prefix

    def capacity(self, tier: Tier) -> int:
        return self.shape.tokens[tier.name]

    def filled(self, layer: int, tier: Tier) -> int:
        """Rows of a layer and tier that hold keys and values: where the next `append` goes."""
        return self._filled[layer][tier]

    def places(self) -> list[tuple[torch.device, range]]:
        """The layers, in groups of those that follow each other on one device."""
        return [(self._devices[run.layers.start], run.layers) for run in self._runs]

    @property
    def raw_dtype(self) -> torch.dtype:
        """Of rows of the FP16 tier."""
        return TORCH_DTYPES[self.shape.raw_dtype]

    @property
    def tokens(self) -> int:
        """Rows filled in every layer, all tiers together."""
        return min(sum(filled.values()) for filled in self._filled)

    @property
    def size_bytes(self) -> int:
        """Bytes of keys and values, scales included, filled or not."""
        return kv_bytes(self.shape)

    def set_multiplicity(self, tier: Tier, multiplicity: Tensor) -> None:
        """Let each row of a tier count int [capacity of the tier] times, at least once."""
        if multiplicity.shape != (self.capacity(tier),):
            raise ValueError(
                f"multiplicity of tier {tier.name}: got shape {tuple(multiplicity.shape)}, "
                f"expected ({self.capacity(tier)},)"
            )
        if bool((multiplicity < 1).any()):
            raise ValueError(f"multiplicity of tier {tier.name}: got {int(multiplicity.min())} < 1")
        self._multiplicity.pop(tier, None)
        self._bias.pop(tier, None)
        if bool((multiplicity > 1).any()):
            counts = multiplicity.to(device="cpu", dtype=torch.int64, copy=True)
            self._multiplicity[tier] = counts
            bias = counts.double().log().float()
            self._bias[tier] = {device: bias.to(device) for device in set(self._devices)}

    def append(self, layer: int, tier: Tier, key: Tensor, value: Tensor) -> None:
        """Encode rows of one layer and store them after those that it and the tier hold already.

        Args:
            key, value: [rows, heads, head_dim]; for the FP16 tier in exactly the raw dtype.

        Raises:
            ValueError: wrong shape or dtype, more rows than the plan said, or values that the
                codec refuses (NaN, infinite, too large).
        """
        for kind, states in (("key", key), ("value", value)):
            self._check_rows(kind, tier, states, len(key))
        states = torch.stack([key, value])[None]
        self._place(layer, tier, tier.codec.encode(states, self.shape.group_size))

    def append_layers(self, first: int, tier: Tier, states: Tensor) -> None:
        """As `append` for several layers that follow each other, on one device.

        On CUDA nothing waits for the device: whoever takes the rows to the processor lets the
        tier's codec `check` them there.

        Args:
            states: [layers, 2, rows, heads, head_dim], keys and values; of any strides.
        """
        self._check_rows("states", tier, states[0, 0], states.shape[2])
        encode = tier.codec.quantise if states.is_cuda else tier.codec.encode
        self._place(first, tier, encode(states, self.shape.group_size))

    def _place(self, first: int, tier: Tier, encoded: Sequence[Tensor]) -> None:
        """Copy encoded rows [layers, 2, rows, ...] behind those that are there."""
        layers, _, rows = encoded[0].shape[:3]
        start = self._filled[first][tier]
        stop = start + rows
        if stop > self.capacity(tier):
            raise ValueError(
                f"tier {tier.name} of layer {first} holds {start} of {self.capacity(tier)} rows: "
                f"no room for {rows} more"
            )
        for run in self._runs:
            own = range(max(first, run.layers.start), min(first + layers, run.layers.stop))
            for held, part in zip(run.parts[tier], encoded, strict=True) if own else ():
                within = slice(own.start - run.layers.start, own.stop - run.layers.start)
                held[within, :, start:stop] = part[own.start - first : own.stop - first]
        for layer in range(first, first + layers):
            self._filled[layer][tier] = stop

    def rows(self, tier: Tier, rows: slice) -> Iterator[tuple[Tensor, ...]]:
        """Views of some filled rows of a tier, of each run of layers on one device.

        A tensor [layers, 2, rows, heads, ...] for each part of the tier, keys and values.
        """
        for run in self._runs:
            yield tuple(part[:, :, rows] for part in run.parts[tier])

    def layer(self, layer: int) -> list[StoredRows]:
        """The filled rows of a layer, one part for each of `STORED_TIERS`."""
        parts = []
        for tier in STORED_TIERS:
            filled = self._filled[layer][tier]
            bias = self._bias[tier][self._devices[layer]][:filled] if tier in self._bias else None
            key, value = (
                tuple(part[:filled] for part in self._layers[layer][tier, kind]) for kind in KINDS
            )
            parts.append(
                StoredRows(tier=tier, key=key, value=value, bias=bias, scratch=self._scratch)
            )
        return parts

    def to_dynamic_cache(self, dtype: torch.dtype) -> DynamicCache:
        """Expand into a plain transformers cache of batch 1, rows by tier, then by slot.

        A row that counts m times is there m times, which equals the biased attention exactly. The
        question stands at the header's `layout.next_position`, not at this cache's length.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(self.shape.layers):
            keys, values = [], []
            for tier, part in zip(STORED_TIERS, self.layer(layer), strict=True):
                for index, chunk in enumerate(part.chunks(dtype, CHUNK_ROWS)):
                    keys.append(self._repeated(tier, index * CHUNK_ROWS, chunk.key))
                    values.append(self._repeated(tier, index * CHUNK_ROWS, chunk.value))
            shape = (0, self.shape.heads, self.shape.head_dim)
            none = torch.empty(shape, dtype=dtype, device=self._devices[layer])
            key, value = torch.cat([none, *keys]), torch.cat([none, *values])
            cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
        return cache

    def _repeated(self, tier: Tier, start: int, rows: Tensor) -> Tensor:
        counts = self._multiplicity.get(tier)
        if counts is None:
            return rows.clone()
        times = counts[start : start + rows.shape[0]].to(rows.device)
        return rows.repeat_interleave(times, dim=0)

    def _check_rows(self, name: str, tier: Tier, states: Tensor, rows: int) -> None:
        expected = (rows, self.shape.heads, self.shape.head_dim)
        if states.shape != expected:
            raise ValueError(f"{name}: got shape {tuple(states.shape)}, expected {expected}")
        if tier is Tier.FP16 and states.dtype != self.raw_dtype:
            raise ValueError(f"{name}: got {states.dtype}, the file keeps {self.raw_dtype}")


def _each(devices: Devices, shape: Shape) -> Sequence[torch.device]:
    if isinstance(devices, str | torch.device):
        return [torch.device(devices)] * shape.layers
    return devices


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Layers that follow each other on one device, their rows of a tier in one tensor a part."""

    layers: range
    parts: dict[Tier, tuple[Tensor, ...]]
    """[layers, 2, capacity, heads, ...], keys and values."""

    def views(self) -> list[Layer]:
        return [
            {
                (tier, kind): tuple(part[layer, number] for part in parts)
                for tier, parts in self.parts.items()
                for number, kind in enumerate(KINDS)
            }
            for layer in range(len(self.layers))
        ]


def _room(shape: Shape, places: Sequence[torch.device]) -> list[_Run]:
    runs, first = [], 0
    for place, group in groupby(places):
        layers = range(first, first + len(list(group)))
        # An inference tensor could not be written to outside inference mode later.
        with torch.inference_mode(False):
            parts = {
                tier: tuple(
                    torch.empty(
                        (len(layers), len(KINDS), *spec.shape),
                        dtype=TORCH_DTYPES[spec.dtype],
                        device=place,
                    )
                    for spec in row_specs(shape, tier)
                )
                for tier in STORED_TIERS
            }
        runs.append(_Run(layers=layers, parts=parts))
        first = layers.stop
    return runs
