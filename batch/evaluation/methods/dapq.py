"""DapQ: the rows that a question would look at, from where it will stand."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import Eviction, Queries, Rows, text_first

_NEUTRAL = Queries("neutral")


@dataclass(frozen=True, kw_only=True)
class DapQ(Eviction):
    """Rows by the pooled attention of a question about nothing, asked behind the prefix.

    SnapKV as it is fair to a cache without a question: its window is the end of the video, which
    makes it look at the last frame.

    Source: DapQ (arXiv 2603.11564), pseudo queries at the positions of the answer; pooling as of
    SnapKV (arXiv 2404.14469). From its abstract only: how many pseudo tokens it appends and which
    was not verified. Departures: they are those of "?" in the model's chat template; text outside
    the samples stays; no window of the latest rows.
    """

    name = "dapq"

    pooled_rows: int = 5

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_NEUTRAL,)

    def scores(self, rows: Rows, count: int) -> Tensor:
        weight = rows.attention[_NEUTRAL].weight
        reach = self.pooled_rows // 2
        pooled: Tensor = functional.avg_pool1d(
            weight, self.pooled_rows, stride=1, padding=reach, count_include_pad=False
        )
        return text_first(pooled, rows)
