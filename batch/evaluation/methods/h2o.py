"""H2O: the rows that got the most attention, and the latest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Queries, Rows

_ALL = Queries()


@dataclass(frozen=True, kw_only=True)
class H2O(Eviction):
    """Half of the rows by attention accumulated over all queries, half the latest.

    - normalised: by the attention a query that could see the row; the sum favours early rows.

    Source: H2O (arXiv 2306.14048), half heavy hitters and half recent; read in its authors' code.
    `normalised` is the correction of ZipCache (arXiv 2405.14256), read in theirs. Departures: the
    query heads that share a key head decide together, and rows are evicted once, after the whole
    prompt, as its authors' code treats a prompt.
    """

    name = "h2o"

    normalised: bool = False

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_ALL,)

    def scores(self, rows: Rows, count: int) -> Tensor:
        weight = rows.attention[_ALL].weight
        if self.normalised:
            weight = weight / (rows.tokens - rows.place)
        return torch.where(rows.place >= rows.tokens - count // 2, torch.inf, weight)
