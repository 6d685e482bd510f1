"""InfiniPot-V: the rows that changed in time, and those of large values."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import Eviction, Rows, highest


@dataclass(frozen=True, kw_only=True)
class InfiniPotV(Eviction):
    """Half of the rows by change of the key at their place, half by the norm of the value.

    Change is the negative mean cosine of a key with those of the same cell in the latest quarter
    of the samples, which themselves change most. No attention, no question: made for streams.

    Source: InfiniPot-V (arXiv 2506.15745), read in its authors' code. Departures: once, after
    the whole video, not whenever a memory is full; cosines of keys without rotation; norms are
    pooled over 5 rows in order of the prompt; text and separators stay.
    """

    name = "infinipot-v"
    rotated = False
    needs_samples = True

    latest: float = 0.25
    pooled_rows: int = 5

    def scores(self, rows: Rows, count: int) -> Tensor:
        is_cell = rows.cell >= 0
        change = self._change(rows)
        change[..., ~is_cell] = torch.inf
        first = highest(change, count // 2)
        norm = rows.value.norm(dim=-1).transpose(1, 2)
        reach = self.pooled_rows // 2
        pooled = functional.avg_pool1d(
            norm, self.pooled_rows, stride=1, padding=reach, count_include_pad=False
        )
        # What the first half took stays; of the rest the largest values.
        return torch.where(first | ~is_cell, torch.inf, pooled)

    def _change(self, rows: Rows) -> Tensor:
        """[layers, kv_heads, tokens]; of what is no cell anything."""
        samples, cells = int(rows.sample.max()) + 1, int(rows.cell.max()) + 1
        newest = max(1, round(self.latest * samples))
        unit = functional.normalize(rows.key, dim=-1)
        late = (rows.cell >= 0) & (rows.sample >= samples - newest)
        layers, _, heads, head_dim = unit.shape
        mean = torch.zeros(layers, cells, heads, head_dim)
        mean.index_add_(1, rows.cell[late], unit[:, late] / newest)
        change = -(unit * mean[:, rows.cell.clamp(min=0)]).sum(-1).transpose(1, 2)
        return torch.where(late, 1 + change, change)
