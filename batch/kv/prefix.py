"""The rows of all layers by tier, in memory: filled from a model run or from a file.

Knows the tiers and the layout of `cachefmt`; knows no model and no question.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from batch.kv.rows import Scratch, StoredRows
from cachefmt.layout import KINDS, kv_bytes, row_specs, row_tensors
from cachefmt.reader import CacheFile
from cachefmt.tensors import TORCH_DTYPES, tensor
from cachefmt.tiers import STORED_TIERS, Tier

if TYPE_CHECKING:
    from transformers import DynamicCache

    from cachefmt.header import Shape

CHUNK_ROWS = 1024
"""Rows that `to_dynamic_cache` expands at a time."""

_ALIGNMENT = 16

Devices = torch.device | str | Sequence[torch.device]
"""One device for all layers, or that of each layer."""

Layer = dict[tuple[Tier, str], tuple[Tensor, ...]]
"""What the codec of each tier makes of a layer's rows, by tier and kind."""


class Prefix:
    """Keys and values of everything before the question: one copy, read by any number of queries.

    Rows of a layer and tier are filled from row 0 on; what is not filled yet is not seen. Not for
    two threads at once: decoding shares one buffer.
    """

    def __init__(self, shape: Shape, layers: list[Layer], runs: Sequence[_Run] = ()) -> None:
        """Use `allocate` or `load`: this one owns the tensors in `layers` from now on.

        runs: those that `layers` are views of, to be filled; without, all rows are there.
        """
        self.shape = shape
        self._layers = layers
        self._runs = runs
        self._devices = [layer[Tier.FP16, "key"][0].device for layer in layers]
        self._scratch = Scratch()
        self._arriving: ArrivingLayers | None = None
        self._bias: dict[Tier, dict[torch.device, Tensor]] = {}
        self._multiplicity: dict[Tier, Tensor] = {}
        self._filled = [
            {tier: 0 if runs else self.capacity(tier) for tier in STORED_TIERS} for _ in layers
        ]

    @classmethod
    def allocate(cls, shape: Shape, devices: Devices) -> Prefix:
        """Reserve memory for all rows."""
        runs = _room(shape, _each(devices, shape))
        return cls(shape, _views(runs), runs)

    @classmethod
    def load(cls, cache_file: CacheFile, devices: Devices) -> Prefix:
        """Take all rows of a file.

        On the CPU nothing is copied: tensors lie over the mapped file, and keep it mapped after
        it is closed; the system is asked to read ahead of the computation. To CUDA a layer is
        copied when the one before it is used.
        """
        shape = cache_file.header.shape
        places = _each(devices, shape)
        cache_file.read_ahead()
        if {place.type for place in places} == {"cuda"}:
            targets = _views(_room(shape, places))
            prefix = cls(shape, targets)
            sources = _mapped(cache_file, _each("cpu", shape))
            prefix._arriving = ArrivingLayers(_flat(sources), _flat(targets))
        else:
            prefix = cls(shape, _mapped(cache_file, places))
        for tier in STORED_TIERS:
            rows = shape.rows_of(tier)
            counts = tensor(cache_file, "token.multiplicity", rows.start, rows.stop)
            prefix.set_multiplicity(tier, counts)
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

    def append(self, layer: int, tier: Tier, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Encode rows of one layer and store them after those that it and the tier hold already.

        Args:
            key, value: [rows, heads, head_dim]; for the FP16 tier in exactly the raw dtype.

        Returns:
            What was stored, views of this prefix, by the names of `cachefmt.layout.row_tensors`.

        Raises:
            ValueError: wrong shape or dtype, more rows than the plan said, or values that the
                codec refuses (NaN, infinite, too large).
        """
        for kind, states in (("key", key), ("value", value)):
            self._check_rows(kind, tier, states, len(key))
        states = torch.stack([key, value])[None]
        stored = self._place(layer, tier, tier.codec.encode(states, self.shape.group_size))
        return self.named(layer, tier, stored)

    def append_layers(self, first: int, tier: Tier, states: Tensor) -> tuple[Tensor, ...]:
        """As `append` for several layers that follow each other, on one device.

        On CUDA nothing waits for the device: whoever takes the rows to the processor lets the
        tier's codec `check` them there.

        Args:
            states: [layers, 2, rows, heads, head_dim], keys and values; of any strides.

        Returns:
            What was stored, a tensor [layers, 2, rows, heads, ...] for each part of the tier; on
            the CPU views of this prefix.
        """
        self._check_rows("states", tier, states[0, 0], states.shape[2])
        if states.is_cuda:
            encoded = tier.codec.quantise(states, self.shape.group_size)
            self._place(first, tier, encoded)
            return encoded
        encoded = tier.codec.encode(states, self.shape.group_size)
        return self._place(first, tier, encoded)

    def _place(self, first: int, tier: Tier, encoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Copy encoded rows [layers, 2, rows, ...] behind those that are there; views of them."""
        layers, _, rows = encoded[0].shape[:3]
        start = self._filled[first][tier]
        stop = start + rows
        if stop > self.capacity(tier):
            raise ValueError(
                f"tier {tier.name} of layer {first} holds {start} of {self.capacity(tier)} rows: "
                f"no room for {rows} more"
            )
        run = next(run for run in self._runs if first in run.layers)
        within = slice(first - run.layers.start, first - run.layers.start + layers)
        stored = tuple(
            held[within, :, start:stop].copy_(part)
            for held, part in zip(run.parts[tier], encoded, strict=True)
        )
        for layer in range(first, first + layers):
            self._filled[layer][tier] = stop
        return stored

    def rows(self, tier: Tier, rows: slice) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Views of some filled rows of a tier: for each run of layers on one device, the first.

        And a tensor [layers, 2, rows, heads, ...] for each part of the tier, keys and values.
        """
        for run in self._runs:
            yield run.layers.start, tuple(part[:, :, rows] for part in run.parts[tier])

    @staticmethod
    def named(first: int, tier: Tier, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors of each layer in what `append_layers` returned, by their names in a file."""
        return {
            name: part[layer, kind]
            for layer in range(len(parts[0]))
            for kind, kind_name in enumerate(KINDS)
            for name, part in zip(row_tensors(first + layer, kind_name, tier), parts, strict=True)
        }

    def layer(self, layer: int) -> list[StoredRows]:
        """The filled rows of a layer, one part for each of `STORED_TIERS`."""
        if self._arriving is not None:
            self._arriving.wait(layer)
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
        """Expand into a plain transformers cache of batch 1, rows in the order of the file.

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
    for place, group in itertools.groupby(places):
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


def _views(runs: list[_Run]) -> list[Layer]:
    return [layer for run in runs for layer in run.views()]


def _mapped(cache_file: CacheFile, places: Sequence[torch.device]) -> list[Layer]:
    return [
        {
            (tier, kind): tuple(
                tensor(cache_file, name).to(place) for name in row_tensors(layer, kind, tier)
            )
            for tier, kind in itertools.product(STORED_TIERS, KINDS)
        }
        for layer, place in enumerate(places)
    ]


def _flat(layers: list[Layer]) -> list[list[Tensor]]:
    return [[part for parts in layer.values() for part in parts] for layer in layers]


class ArrivingLayers:
    """Copies layers to their device on a stream of its own, one layer ahead of the computation.

    Kernels are queued long before they run, so the processor is free to copy layer i + 1 from the
    mapped file into pinned memory while the device computes layer i. Two pinned buffers of one
    layer each are used in turn. Tests have stand-ins for streams where there is no GPU.
    """

    def __init__(
        self, sources: Sequence[Sequence[Tensor]], targets: Sequence[Sequence[Tensor]]
    ) -> None:
        """Nothing is copied yet.

        sources: tensors of each layer on the CPU; targets: as many of the same dtypes and shapes,
        those of a layer on one CUDA device.
        """
        self._sources = [list(layer) for layer in sources]
        self._targets = targets
        self._devices = [layer[0].device for layer in targets]
        size = max(sum(_padded(rows.nbytes) for rows in layer) for layer in sources)
        self._buffers = [torch.empty(size, dtype=torch.uint8).pin_memory() for _ in range(2)]
        self._streams = {device: torch.cuda.Stream(device) for device in set(self._devices)}  # type: ignore[no-untyped-call]  # torch 2.13
        for device, stream in self._streams.items():
            # The memory of the targets may still be in use by kernels queued before it was freed.
            stream.wait_stream(torch.cuda.current_stream(device))
        self._arrived: list[torch.cuda.Event] = []

    def wait(self, layer: int) -> None:
        """Let what is queued from now on begin only when a layer has arrived."""
        while len(self._arrived) < min(layer + 2, len(self._sources)):
            self._start(len(self._arrived))
        torch.cuda.current_stream(self._devices[layer]).wait_event(self._arrived[layer])

    def _start(self, layer: int) -> None:
        if layer >= len(self._buffers):
            self._arrived[layer - len(self._buffers)].synchronize()  # its buffer is free again
        buffer, start = self._buffers[layer % len(self._buffers)], 0
        stream = self._streams[self._devices[layer]]
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch 2.13
        with torch.cuda.stream(stream):
            for rows, target in zip(self._sources[layer], self._targets[layer], strict=True):
                staged = buffer[start : start + rows.nbytes].view(rows.dtype).view(rows.shape)
                staged.copy_(rows)
                target.copy_(staged, non_blocking=True)
                start += _padded(rows.nbytes)
            arrived.record(stream)
        self._arrived.append(arrived)
        self._sources[layer].clear()  # the last one lets go of the mapped file


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
