"""The transform codec of `cachefmt`, with bases made of other text or of the context itself."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from batch.evaluation.judges.schemes.scheme import Scheme
from batch.evaluation.methods.row_method import Held, Rows
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt
from cachefmt.codecs.basis import Basis, Moments


@dataclass(frozen=True, kw_only=True)
class Transform(Scheme):
    """Bases over `layers` layers each, K and V together; text has no places, so no prediction.

    Bases are made of the rows themselves, packed and counted; those fitted to other text are not.

    - components: at most so many a basis, if fitted.
    """

    step: float
    layers: int = 6
    components: int = 1024
    bases: tuple[Basis, ...] = field(default=(), repr=False, compare=False)

    @property
    def rotated(self) -> bool:
        return False

    @property
    def calibration_bytes(self) -> int:
        """Of the bases that were fitted: directions a byte a number, means 2, scales 4."""
        return sum(
            basis.directions.numel() + 2 * basis.mean.numel() + 4 * basis.scale.numel()
            for basis in self.bases
        )

    def fit(self, calibration: Rows) -> Self:
        groups = self._groups(calibration)
        weight = calibration.weight
        if weight is None:
            weight = torch.ones(len(calibration.key), 2)
        fitted = map(self._fitted, groups, torch.split(weight, self.layers))
        return replace(self, bases=tuple(fitted))

    def store(self, rows: Rows) -> Held:
        place = np.arange(rows.key.shape[1])
        decoded, size = [], 0
        for number, group in enumerate(self._groups(rows)):
            basis, own_bytes = self._basis(number, group)
            data = klt.encode(group, basis, step=self.step, place=place)
            decoded.append(klt.decode(data, basis, place=place, dtype=torch.float32))
            size += len(data) + own_bytes
        key, value = torch.cat(decoded, 1).transpose(0, 1).unbind(2)
        return Held(key, value, size)

    def _basis(self, number: int, group: Tensor) -> tuple[Basis, int]:
        """The basis of a group and how many bytes it adds."""
        if self.bases:
            return self.bases[number], 0
        packed = bases.pack(group, self.step)
        return bases.unpack(packed, bases.shape_of(group)), len(packed)

    def _fitted(self, group: Tensor, weight: Tensor) -> Basis:
        moments = Moments(bases.shape_of(group))
        moments.add(group, np.zeros(len(group), np.int64))
        mean = moments.means()
        scale = moments.scale(mean) / weight
        _, directions = moments.principal(mean, scale, self.components)
        return Basis(shape=moments.shape, mean=mean, scale=scale, directions=directions)

    def _groups(self, rows: Rows) -> tuple[Tensor, ...]:
        """Rows [tokens, layers, 2, heads, head_dim] of each group of layers."""
        return torch.split(torch.stack([rows.key, rows.value], 2).transpose(0, 1), self.layers, 1)


@dataclass(frozen=True, kw_only=True)
class CalibratedTransform(Transform):
    """The same, fitted to other text."""

    is_fitted: ClassVar[bool] = True
