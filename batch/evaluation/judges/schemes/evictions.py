"""Methods that keep some rows of each layer and head, through their own classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from batch.evaluation.judges.schemes.scheme import Rows, Scheme, Stored
from batch.evaluation.methods.row_method import RowMethod


@dataclass(frozen=True, kw_only=True)
class RandomRows(RowMethod):
    """Rows drawn by chance for each layer and head: the control."""

    name: ClassVar[str] = "random"

    def scores(self, mass: Tensor, count: int) -> Tensor:
        return torch.rand(mass.shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class Eviction(Scheme):
    """A share of the rows at FP16, chosen by a method; which they are is not counted."""

    method: RowMethod
    share: float

    @property
    def observed_queries(self) -> tuple[int | None, ...]:
        return (self.method.observed_queries,)

    def store(self, rows: Rows) -> Stored:
        mass = rows.mass[self.method.observed_queries]
        kept = self.method.keep(mass, round(self.share * mass.shape[-1])).transpose(1, 2)
        chosen = kept[..., None].expand(-1, -1, -1, rows.key.shape[-1])
        key, value = rows.key.gather(1, chosen).half(), rows.value.gather(1, chosen).half()
        return Stored(key.float(), value.float(), key.nbytes + value.nbytes)


@dataclass(frozen=True, kw_only=True)
class Nothing(Scheme):
    """No row is stored: how bad it gets."""

    def store(self, rows: Rows) -> Stored:
        return Stored(rows.key[:, :0], rows.value[:, :0], 0)
