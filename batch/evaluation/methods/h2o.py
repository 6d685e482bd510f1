"""H2O: the rows that got the most attention, and the latest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import RowMethod, row_numbers


@dataclass(frozen=True, kw_only=True)
class H2O(RowMethod):
    """Half of the rows by attention accumulated over all queries, half the latest.

    Source: H2O (arXiv 2306.14048), half heavy hitters and half recent. Departures: the query
    heads that share a key head decide together, and rows are evicted once, after the whole
    prompt, as its authors' code treats a prompt.
    """

    name = "h2o"

    observed_queries: int | None = None

    def scores(self, mass: Tensor, count: int) -> Tensor:
        recent = row_numbers(mass) >= mass.shape[-1] - count // 2
        return torch.where(recent, torch.inf, mass)
