"""SnapKV: the rows that the end of the prompt looks at, with their neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import RowMethod, row_numbers


@dataclass(frozen=True, kw_only=True)
class SnapKV(RowMethod):
    """Rows by the pooled attention of the last `window` queries, and that window itself.

    Source: SnapKV (arXiv 2404.14469), window 32, average pooling over 5 rows. Departures: the
    window is the end of the video, since the question is not known yet, and the query heads that
    share a key head decide together.
    """

    name: ClassVar[str] = "snapkv"

    window: int = 32
    pooled_rows: int = 5

    @property
    def observed_queries(self) -> int | None:
        return self.window

    def scores(self, mass: Tensor, count: int) -> Tensor:
        pooled = functional.avg_pool1d(
            mass, self.pooled_rows, stride=1, padding=self.pooled_rows // 2, count_include_pad=False
        )
        place = row_numbers(mass)
        # The latest first, should the budget be shorter than the window.
        return torch.where(place >= mass.shape[-1] - self.window, pooled.max() + place, pooled)
