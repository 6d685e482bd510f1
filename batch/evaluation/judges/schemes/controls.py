"""Controls: rows drawn by chance, and none at all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.judges.schemes.scheme import Scheme
from batch.evaluation.methods.row_method import Eviction, Held, Kind, Rows


@dataclass(frozen=True, kw_only=True)
class RandomRows(Eviction):
    """Rows drawn by chance for each layer and head."""

    name = "random"

    def scores(self, rows: Rows, count: int) -> Tensor:
        return torch.rand(rows.shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class Nothing(Scheme):
    """No row is stored: how bad it gets."""

    kind: Kind | None = "eviction"

    def store(self, rows: Rows) -> Held:
        return Held(rows.key[:, :0], rows.value[:, :0], 0)
