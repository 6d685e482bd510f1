"""Scissorhands: the rows that were seldom ignored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Queries, Rows

_WINDOW = Queries(last=400, of="weak")


@dataclass(frozen=True, kw_only=True)
class Scissorhands(Eviction):
    """Rows that the fewest of the last 400 queries paid less than even attention; the last 10 stay.

    A share of queries, so that one huge weight makes no row important.

    Source: Scissorhands (arXiv 2305.17118). Window and number of latest rows are from memory, not
    verified. Departures: rows are dropped once, after the whole prompt, not half of them each time
    that a buffer is full; every layer has the same budget.
    """

    name = "scissorhands"

    recent: int = 10

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_WINDOW,)

    def scores(self, rows: Rows, count: int) -> Tensor:
        strong = 1 - rows.attention[_WINDOW].weight
        return torch.where(rows.place >= rows.tokens - self.recent, torch.inf, strong)
