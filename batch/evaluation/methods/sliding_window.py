"""Sliding window: only the latest rows stay."""

from dataclasses import dataclass

from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Rows


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Eviction):
    """The last rows of the prompt.

    Source: window attention, as in Longformer (arXiv 2004.05150). Departure: the rows were
    computed with full attention, which favours the method.
    """

    name = "sliding-window"

    shared: bool = True

    def scores(self, rows: Rows, count: int) -> Tensor:
        return rows.place
