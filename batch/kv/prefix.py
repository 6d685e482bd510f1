"""The stored rows of all layers by tier, in memory, under the names they have in the file.

Knows the layout and the codecs of `cachefmt`; knows no model and no question.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from batch.kv.loading import ArrivingLayers, by_layer
from batch.kv.rows import Quantised, QuantisedRows, RawRows, Scratch
from cachefmt import tensors as file_tensors
from cachefmt.codecs import int4, int8
from cachefmt.layout import tensor_specs
from cachefmt.reader import CacheFile
from cachefmt.tiers import STORED_TIERS, Tier

if TYPE_CHECKING:
    from transformers import DynamicCache

    from cachefmt.header import Shape

CHUNK_ROWS = 1024
"""Rows that `to_dynamic_cache` expands at a time."""

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


Devices = torch.device | str | Sequence[torch.device]
"""One device for all layers, or that of each layer."""


class Prefix:
    """Keys and values of everything before the question: one copy, read by any number of queries.

    Rows of a layer and tier are filled from row 0 on; what is not filled yet is not seen. Not for
    two threads at once: decoding shares one buffer.
    """

    def __init__(self, shape: Shape, tensors: dict[str, Tensor], *, is_filled: bool) -> None:
        """Use `allocate` or `load`.

        Args:
            shape: as in the header of the file.
            tensors: every `layers.*` tensor of the file by name, owned by this prefix from now on.
            is_filled: whether the tensors hold their rows already.
        """
        self.shape = shape
        self._tensors = tensors
        self._scratch = Scratch()
        self._arriving: ArrivingLayers | None = None
        self._devices = [
            tensors[f"layers.{layer}.key.fp16"].device for layer in range(shape.layers)
        ]
        self._bias: dict[Tier, dict[torch.device, Tensor]] = {}
        self._multiplicity: dict[Tier, Tensor] = {}
        self._filled = [
            {tier: self.capacity(tier) if is_filled else 0 for tier in STORED_TIERS}
            for _ in range(shape.layers)
        ]

    @classmethod
    def allocate(cls, shape: Shape, devices: Devices) -> Prefix:
        """Reserve memory for all rows; nothing is filled."""
        places = _places(shape, devices)
        # An inference tensor could not be written to outside inference mode later.
        with torch.inference_mode(False):
            tensors = {
                name: torch.empty(spec.shape, dtype=_DTYPES[spec.dtype], device=places[name])
                for name, spec in tensor_specs(shape).items()
                if name in places
            }
        return cls(shape, tensors, is_filled=False)

    @classmethod
    def load(cls, cache_file: CacheFile, devices: Devices) -> Prefix:
        """Take all rows of a file.

        On the CPU nothing is copied: tensors lie over the mapped file, and keep it mapped after
        it is closed; the system is asked to read ahead of the computation. To CUDA a layer is
        copied when the one before it is used (not run on a GPU yet).
        """
        shape = cache_file.header.shape
        places = _places(shape, devices)
        tensors = {name: file_tensors.tensor(cache_file, name) for name in places}
        cache_file.read_ahead()
        arriving = None
        if {place.type for place in places.values()} == {"cuda"}:
            mapped = tensors
            tensors = {k: torch.empty_like(rows, device=places[k]) for k, rows in mapped.items()}
            arriving = ArrivingLayers(by_layer(mapped), by_layer(tensors))
        else:
            tensors = {name: rows.to(places[name]) for name, rows in tensors.items()}
        prefix = cls(shape, tensors, is_filled=True)
        prefix._arriving = arriving
        multiplicity = file_tensors.tensor(cache_file, "token.multiplicity")
        for tier in STORED_TIERS:
            rows = shape.rows_of(tier)
            prefix.set_multiplicity(tier, multiplicity[rows.start : rows.stop])
        return prefix

    def capacity(self, tier: Tier) -> int:
        """Rows of a tier, filled or not."""
        return self.shape.tokens[tier.name]

    def filled(self, layer: int, tier: Tier) -> int:
        """Rows of a layer and tier that hold keys and values: where the next `append` goes."""
        return self._filled[layer][tier]

    @property
    def raw_dtype(self) -> torch.dtype:
        """What rows of the FP16 tier must be of."""
        return _DTYPES[self.shape.raw_dtype]

    @property
    def tokens(self) -> int:
        """Rows filled in every layer, all tiers together."""
        return min(sum(filled.values()) for filled in self._filled)

    @property
    def size_bytes(self) -> int:
        """Bytes of keys and values, scales included, filled or not."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def set_multiplicity(self, tier: Tier, multiplicity: Tensor) -> None:
        """Say how many times each row of a tier counts, from now on; without it, once.

        Args:
            tier: a stored tier.
            multiplicity: int [capacity of the tier], >= 1.

        Raises:
            ValueError: wrong shape, or a count below 1.
        """
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
        """Encode rows and store them after those that the layer and tier hold already.

        Args:
            layer: 0-based.
            tier: a stored tier.
            key, value: [rows, heads, head_dim]; for the FP16 tier in exactly the raw dtype.

        Returns:
            The stored rows, views of this prefix, by the part of their name in the file after
            `layers.{layer}.`, e.g. `key.int8.scale`.

        Raises:
            ValueError: wrong shape or dtype, more rows than the plan said, or values that the
                codec refuses (NaN, infinite, too large).
        """
        start = self._filled[layer][tier]
        stop = start + key.shape[0]
        self._check_rows(tier, key, value)
        if stop > self.capacity(tier):
            raise ValueError(
                f"tier {tier.name} of layer {layer} holds {start} of {self.capacity(tier)} rows: "
                f"no room for {key.shape[0]} more"
            )
        encoded = {
            f"{kind}.{suffix}": rows
            for kind, states in (("key", key), ("value", value))
            for suffix, rows in self._encode(tier, states).items()
        }
        stored = {}
        for suffix, rows in encoded.items():
            stored[suffix] = self._tensors[f"layers.{layer}.{suffix}"][start:stop]
            stored[suffix].copy_(rows)
        self._filled[layer][tier] = stop
        return stored

    def layer(self, layer: int) -> list[RawRows | QuantisedRows]:
        """The filled rows of a layer, a part per tier, in the order of the file."""
        if self._arriving is not None:
            self._arriving.wait(layer)
        return [self._rows(layer, tier) for tier in STORED_TIERS]

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
        """A copy of the decoded rows from `start` on, each as often as it counts."""
        counts = self._multiplicity.get(tier)
        if counts is None:
            return rows.clone()
        times = counts[start : start + rows.shape[0]].to(rows.device)
        return rows.repeat_interleave(times, dim=0)

    def _check_rows(self, tier: Tier, key: Tensor, value: Tensor) -> None:
        expected = (key.shape[0], self.shape.heads, self.shape.head_dim)
        for kind, states in (("key", key), ("value", value)):
            if states.shape != expected:
                raise ValueError(f"{kind}: got shape {tuple(states.shape)}, expected {expected}")
            if tier is Tier.FP16 and states.dtype != self.raw_dtype:
                raise ValueError(f"{kind}: got {states.dtype}, the file keeps {self.raw_dtype}")

    def _encode(self, tier: Tier, states: Tensor) -> dict[str, Tensor]:
        """Encoded rows by the end of their tensor's name."""
        if tier is Tier.FP16:
            if not bool(states.isfinite().all()):
                raise ValueError(f"fp16: got NaN, or numbers that {states.dtype} cannot hold")
            return {"fp16": states}
        if tier is Tier.INT8:
            codes, scale = int8.encode(states, self.shape.group_size)
            return {"int8": codes, "int8.scale": scale}
        codes, scale, minimum = int4.encode(states, self.shape.group_size)
        return {"int4": codes, "int4.scale": scale, "int4.minimum": minimum}

    def _rows(self, layer: int, tier: Tier) -> RawRows | QuantisedRows:
        filled = self._filled[layer][tier]
        bias = self._bias[tier][self._devices[layer]][:filled] if tier in self._bias else None
        if tier is Tier.FP16:
            return RawRows(
                key=self._tensors[f"layers.{layer}.key.fp16"][:filled],
                value=self._tensors[f"layers.{layer}.value.fp16"][:filled],
                bias=bias,
                scratch=self._scratch,
            )
        return QuantisedRows(
            key=self._quantised(layer, "key", tier, filled),
            value=self._quantised(layer, "value", tier, filled),
            bias=bias,
            scratch=self._scratch,
        )

    def _quantised(self, layer: int, kind: str, tier: Tier, filled: int) -> Quantised:
        name = f"layers.{layer}.{kind}.{tier.name.lower()}"
        return Quantised(
            codes=self._tensors[name][:filled],
            scale=self._tensors[f"{name}.scale"][:filled],
            minimum=self._tensors[f"{name}.minimum"][:filled] if tier is Tier.INT4 else None,
        )


def load(path: str | os.PathLike[str], devices: Devices = "cpu") -> Prefix:
    """Take the keys and values of a cache file, checked for what readers rely on.

    On the CPU the rows lie over the mapped file: nothing is read before it is used.

    Raises:
        CacheFileError: the file is no cache, or damaged.
    """
    with CacheFile.open(path) as cache_file:
        cache_file.verify_tables()
        return Prefix.load(cache_file, devices)


def _places(shape: Shape, devices: Devices) -> dict[str, torch.device]:
    """The device of each `layers.*` tensor, by name."""
    if isinstance(devices, str | torch.device):
        devices = [torch.device(devices)] * shape.layers
    names = (name for name in tensor_specs(shape) if name.startswith("layers."))
    return {name: devices[int(name.split(".")[1])] for name in names}
