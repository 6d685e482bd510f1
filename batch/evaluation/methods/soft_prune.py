"""Soft pruning: one mean row in place of a sample that is dropped."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import Held, RowMethod, Rows, fp16, require_rows


@dataclass(frozen=True, kw_only=True)
class SoftPrune(RowMethod):
    """Samples that changed, and later ones, stay; of each other a mean row that counts for all.

    Source: the best of a study of 33 ways to quantise a video generator's cache (28 March 2026,
    its number unknown), read in its code: chunks ranked by 0.7 of their change and recency, dropped
    ones replaced by their mean key and value. Departures: a chunk is a sample; change is one less
    the mean cosine of keys with those of the sample before, 0.3 of the rank is recency; what stays
    is FP16, not INT4 and less; means of keys without rotation; one row with a multiplicity.
    """

    name = "soft-prune"
    kind = "merging"
    rotated = False
    needs_samples = True

    change: float = 0.7

    @property
    def in_file(self) -> bool:
        return True

    def store(self, rows: Rows, count: int) -> Held:
        require_rows(self, count)
        owned = rows.sample.clamp(min=0).bincount(weights=(~rows.is_text).double()).long()
        order = self._rank(rows, len(owned)).sort(descending=True, stable=True).indices.tolist()
        left = count - int(rows.is_text.sum())
        times = rows.is_text.float()
        if left < 0:
            times[times.cumsum(0) > count] = 0
        key, value = fp16(rows.key), fp16(rows.value)
        summed = order[: max(0, left)]
        left -= len(summed)
        for sample in summed:
            own = (rows.sample == sample).nonzero()[:, 0]
            more = min(left, len(own) - 1)
            left -= more
            times[own[:more]] = 1
            rest = own[more:]
            middle = rest[len(rest) // 2]
            times[middle] = len(rest)
            for states in (key, value):
                states[:, middle] = fp16(states[:, rest].mean(1))
        size_bytes = 4 * int((times > 0).sum()) * key[:, 0].numel()
        return Held(key, value, size_bytes, times.expand(rows.shape))

    def _rank(self, rows: Rows, samples: int) -> Tensor:
        """Of each sample, [samples]."""
        is_cell = rows.cell >= 0
        sample, cell = rows.sample[is_cell], rows.cell[is_cell]
        key = rows.key[:, is_cell].flatten(2)
        grid = torch.zeros(len(key), samples, int(cell.max()) + 1, key.shape[-1])
        grid[:, sample, cell] = key
        alike = functional.cosine_similarity(grid[:, 1:], grid[:, :-1], dim=-1).mean((0, 2))
        change = functional.pad(1 - alike, (1, 0), value=1.0)
        change = change / change.max()
        recency = torch.arange(samples) / max(1, samples - 1)
        return self.change * change + (1 - self.change) * recency
