"""Sliding window: only the latest rows stay."""

from dataclasses import dataclass

from torch import Tensor

from batch.evaluation.methods.row_method import RowMethod, row_numbers


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(RowMethod):
    """The last rows of the prompt.

    Source: window attention, as in Longformer (arXiv 2004.05150). Departure: the rows were
    computed with full attention, which favours the method.
    """

    name = "sliding-window"

    def scores(self, mass: Tensor, count: int) -> Tensor:
        return row_numbers(mass)
