"""StreamingLLM: attention sinks and a window."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Rows


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(Eviction):
    """The first rows, which attention falls back to, and the last.

    Source: StreamingLLM (arXiv 2309.17453), four sinks. Departures: the rows were computed with
    full attention, and the window is not moved up to the sinks.
    """

    name = "streaming-llm"

    sinks: int = 4
    shared: bool = True

    def scores(self, rows: Rows, count: int) -> Tensor:
        return torch.where(rows.place < self.sinks, torch.inf, rows.place)
