"""Methods that let the model read everything, and then evict rows of keys and values.

The author of a method scores the rows of each layer and head; how many stay, and that as many
stay in each, is settled here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from batch.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class RowMethod(ABC):
    """A method that decides after prefill, for each layer and head by itself.

    Departure common to all: the question is not known yet when rows are evicted, since one cache
    serves every question. Positions stay those of the prompt.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    takes_budget: ClassVar[bool] = True
    profile: ClassVar[str | None] = None

    observed_queries: int | None = 0
    """How many of the last queries' attention it must know; None: of all."""

    @abstractmethod
    def scores(self, mass: Tensor, count: int) -> Tensor:
        """Rank rows, the highest stays.

        Args:
            mass: float32 [layers, kv_heads, rows], the attention that each row got from the
                observed queries, summed over them and over the query heads of its group; the
                scores have the same shape.
            count: rows that will stay.
        """

    def keep(self, mass: Tensor, count: int) -> Tensor:
        """Rows that stay: int64 [layers, kv_heads, count], in order.

        Raises:
            BatchError: no row would stay.
        """
        if count < 1:
            raise BatchError(f"{self.name}: the budget does not hold a single row")
        best = self.scores(mass, count).sort(dim=-1, descending=True, stable=True).indices
        return best[..., :count].sort(dim=-1).values


def row_numbers(mass: Tensor) -> Tensor:
    """The place of each row in the prompt, float32 of the shape of `mass`."""
    places = torch.arange(mass.shape[-1], dtype=torch.float32, device=mass.device)
    return places.expand(mass.shape)
