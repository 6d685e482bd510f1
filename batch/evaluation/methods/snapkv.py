"""SnapKV: the rows that the end of the prompt looks at, with their neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import Eviction, Queries, Rows


@dataclass(frozen=True, kw_only=True)
class SnapKV(Eviction):
    """Rows by the pooled attention of the last `window` queries, and that window itself.

    Source: SnapKV (arXiv 2404.14469), average pooling over 5 rows as in its authors' code, which
    has a window of 64; this is 32. Departures: the window is the end of the video, since the
    question is not known yet, and the query heads that share a key head decide together.
    """

    name = "snapkv"

    window: int = 32
    pooled_rows: int = 5

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (Queries(last=self.window),)

    def scores(self, rows: Rows, count: int) -> Tensor:
        weight = rows.attention[Queries(last=self.window)].weight
        pooled = functional.avg_pool1d(
            weight,
            self.pooled_rows,
            stride=1,
            padding=self.pooled_rows // 2,
            count_include_pad=False,
        )
        # The latest first, should the budget be shorter than the window.
        in_window = rows.place >= rows.tokens - self.window
        return torch.where(in_window, pooled.max() + rows.place, pooled)
