"""The rows of an open cache file, decoded block by block: as memory has them, or unrotated.

Knows the codecs of `cachefmt` and rotations; knows no model and no prefix.
"""

from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from batch.kv.rotation import Rotation, RotationOf, rotate, unrotate
from cachefmt.calibration_files import calibration_of
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt, plain
from cachefmt.codecs.basis import Basis
from cachefmt.layout import basis_name, block_name
from cachefmt.reader import CacheFile
from cachefmt.tensors import TORCH_DTYPES
from cachefmt.tiers import STORED_TIERS, Tier

_CACHED_NUMBERS = 1 << 18
"""That are turned and encoded together on the CPU.

Source: of 2,036 rows of 4,096 numbers, with one thread, 2^18 to 2^20 take three quarters of the
time of all at once.
"""

Encoded = dict[Tier, tuple[Tensor, ...]]
"""Rows by tier: for each part of its encoding a tensor [layers, 2, rows, heads, ...]."""


class FileRows:
    """Decodes blocks of a file, whatever its codec; knows where their rows stand.

    Raises CacheFileError, which names the block, where the file is damaged or its bytes are none
    that a writer writes; and at first where its calibration is missing.
    """

    def __init__(
        self, cache: CacheFile, rotation: RotationOf | None, device: torch.device | str = "cpu"
    ) -> None:
        """Nothing is read but the tables.

        Args:
            rotation: of the model that wrote the file; None will do for `encoded` of plain files.
            device: where `klt` is decoded.
        """
        self._cache = cache
        self._turn = rotation
        self._device = device
        self._shape = cache.header.shape
        self._codec = cache.header.codec
        self._places = cache.tables.places(self._shape)
        self.groups = cache.header.groups()
        """The layers of each group, which are decoded together."""
        self._text = [range(self._codec.text_tokens)] if self._codec.text_tokens else []
        self.blocks = [*self._text, *cache.blocks]
        """The rows that are decoded together; of the text that a calibration holds, one block."""

    def read_bytes(self, number: int, group: int) -> int:
        """What of the file is read for a group of layers of a block."""
        if number < len(self._text):
            return 0
        return self._cache.tensor_bytes(block_name(number - len(self._text), group))

    def naming(self, number: int, group: int) -> AbstractContextManager[None]:
        """Turns a ValueError about the numbers of a block into a CacheFileError that names it."""
        return self._cache.decoding(block_name(max(0, number - len(self._text)), group), group)

    def encoded(self, number: int, group: int) -> Encoded:
        """The rows of each tier, as memory holds them."""
        if self._codec.name == "plain":
            return self._plain(number, group)
        states = self._unrotated(number, group)
        rotation = self._rotation(self._positions(number)).to(states.device)
        with self.naming(number, group):
            return {
                tier: self._tier(tier, states, rows.to(states.device), rotation)
                for tier, rows in self._tiers(number).items()
            }

    def _tier(
        self, tier: Tier, states: Tensor, rows: Tensor, rotation: Rotation
    ) -> tuple[Tensor, ...]:
        """Some rows of unrotated states as a tier has them.

        A few rows after another on the CPU: all that is made of them then stays in its caches.
        """
        numbers = max(1, states[:1].numel())
        at_once = len(rows) if states.is_cuda else _CACHED_NUMBERS // numbers
        parts = []
        for some in torch.split(rows, max(1, at_once)):
            turned = states[some]
            _turn(turned, Rotation(cos=rotation.cos[some], sin=rotation.sin[some]), is_back=False)
            of_layers = turned.permute(1, 2, 0, 3, 4)
            parts.append(tier.codec.encode(of_layers, self._shape.group_size))
        return tuple(torch.cat(part, dim=2) for part in zip(*parts, strict=True))

    def states(self, number: int, group: int) -> Tensor:
        """Keys without their position, and values: [rows, layers, 2, heads, head_dim]."""
        if self._codec.name != "plain":
            return self._unrotated(number, group)
        tiers = self._tiers(number)
        states = torch.empty(len(self.blocks[number]), *self._vector(group))
        for tier, parts in self._plain(number, group).items():
            states[tiers[tier]] = tier.codec.decode(*parts).permute(2, 0, 1, 3, 4)
        _turn(states, self._rotation(self._positions(number)), is_back=True)
        return states

    def _plain(self, number: int, group: int) -> Encoded:
        layers = len(self.groups[group])
        counts = self._cache.tables.counts(self.blocks[number])
        with self.naming(number, group):
            data = self._cache.block(number, group)
            found = plain.decode(data, self._shape, layers=layers, counts=counts)
            for tier, parts in found.items():
                tier.codec.check(*parts)
        return found

    def _unrotated(self, number: int, group: int) -> Tensor:
        """Of `klt`: in the type of raw rows."""
        layers, rows = self.groups[group], self.blocks[number]
        if number < len(self._text):
            return self._calibrated_text[: len(rows), layers.start : layers.stop].clone()
        basis = self._bases[group]
        with self.naming(number, group):
            return klt.decode(
                self._cache.block(number - len(self._text), group),
                basis,
                place=self._places[rows.start : rows.stop],
                dtype=TORCH_DTYPES[self._shape.raw_dtype],
            )

    @cached_property
    def _bases(self) -> list[Basis]:
        if self._codec.calibration is not None:
            shape = self._shape
            calibration = calibration_of(self._cache.path, self._cache.header)
            return calibration.bases(shape.rows, shape.columns, self._device)
        found = []
        for group in range(len(self.groups)):
            with self._cache.decoding(basis_name(group), group):
                packed = self._cache.basis(group)
                found.append(bases.unpack(packed, self._vector(group)).to(self._device))
        return found

    @cached_property
    def _calibrated_text(self) -> Tensor:
        calibration = calibration_of(self._cache.path, self._cache.header)
        return calibration.text_rows.to(self._device)

    def _vector(self, group: int) -> tuple[int, int, int, int]:
        return (len(self.groups[group]), 2, self._shape.heads, self._shape.head_dim)

    def _tiers(self, number: int) -> dict[Tier, Tensor]:
        """Which rows of a block each tier has."""
        rows = self.blocks[number]
        tiers = self._cache.tables.tier[rows.start : rows.stop]
        return {tier: torch.from_numpy(np.flatnonzero(tiers == tier)) for tier in STORED_TIERS}

    def _positions(self, number: int) -> Tensor:
        rows = self.blocks[number]
        return torch.from_numpy(
            self._cache.tables.position[rows.start : rows.stop].astype(np.int64)
        )

    @property
    def _rotation(self) -> RotationOf:
        if self._turn is None:
            raise ValueError(f"{self._cache.path}: its keys need the rotation of their model")
        return self._turn


def _turn(states: Tensor, rotation: Rotation, *, is_back: bool) -> None:
    """Rotate the keys in states [rows, layers, 2, heads, head_dim] to positions, or back."""
    keys = states[:, :, 0]
    turned = (unrotate if is_back else rotate)(keys.flatten(1, 2), rotation)
    keys.copy_(turned.view(keys.shape))
