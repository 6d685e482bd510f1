"""SnapKV: the rows that the end of the prompt looks at, with their neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import RowMethod, row_numbers


@dataclass(frozen=True, kw_only=True)
class SnapKV(RowMethod):
    """Rows by the pooled attention of the last `observed_queries`, and that window itself.

    Source: SnapKV (arXiv 2404.14469), window 32, average pooling over 5 rows. Departures: the
    window is the end of the video, since the question is not known yet, and the query heads that
    share a key head decide together.
    """

    name = "snapkv"

    observed_queries: int = 32
    pooled_rows: int = 5

    def scores(self, mass: Tensor, count: int) -> Tensor:
        pooled = functional.avg_pool1d(
            mass, self.pooled_rows, stride=1, padding=self.pooled_rows // 2, count_include_pad=False
        )
        place = row_numbers(mass)
        # The latest first, should the budget be shorter than the window.
        in_window = place >= mass.shape[-1] - self.observed_queries
        return torch.where(in_window, pooled.max() + place, pooled)
