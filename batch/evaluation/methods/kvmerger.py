"""KVMerger: one row for a run of rows with similar keys."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import (
    Held,
    Queries,
    RowMethod,
    Rows,
    fp16,
    highest,
    require_rows,
)

_NEUTRAL = Queries("neutral")


@dataclass(frozen=True, kw_only=True)
class KVMerger(RowMethod):
    """Neighbours of the most similar keys become one row, weighted by nearness to its pivot.

    The pivot, at whose place the row stands, is the one of a run with most attention; the row
    counts as often as the run is long.

    - through_time: neighbours are the same cell in successive samples, not in the prompt.
    - shared: runs are the same in all layers and heads, which a file can hold.

    Source: KVMerger (arXiv 2407.08454): runs by cosine of successive keys, Gaussian weights, from
    its abstract and third parties; the width, here the run's mean squared distance, is not
    verified. Departures: as many pairs are joined as meets the budget, instead of all above a
    cosine; attention of a question about nothing behind the prefix (see DapQ) names the pivot;
    keys without rotation; rows count their run; no heavy hitter stays single.
    """

    name = "kvmerger"
    kind = "merging"
    rotated = False

    through_time: bool = False
    shared: bool = False

    @property
    def needs_samples(self) -> bool:
        return self.through_time

    @property
    def in_file(self) -> bool:
        return self.shared

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_NEUTRAL,)

    def number_bytes(self, shape: tuple[int, int, int], count: int) -> int:
        """Where a run's row stands, two bytes or a bit a row that there was, and how long it is."""
        layers, heads, tokens = shape
        return 0 if self.shared else layers * heads * (min(2 * count, -(-tokens // 8)) + count)

    def store(self, rows: Rows, count: int) -> Held:
        require_rows(self, count)
        order = self._order(rows)
        key, value = (states[:, order].transpose(1, 2) for states in (rows.key, rows.value))
        weight = rows.attention[_NEUTRAL].weight[..., order]
        if self.shared:
            weight = weight.mean((0, 1)).expand(rows.shape)
        run = self._runs(rows, order, key, min(count, rows.tokens))
        shape = (*rows.shape[:2], min(count, rows.tokens))
        most = torch.zeros(shape).scatter_reduce(2, run, weight, "amax")
        place = torch.arange(rows.tokens).expand(rows.shape)
        is_best = weight == most.gather(2, run)
        pivot = torch.zeros(shape, dtype=torch.int64)
        pivot.scatter_reduce_(2, run, torch.where(is_best, place, 0), "amax")
        length = torch.zeros(shape).scatter_add(2, run, torch.ones(rows.shape))
        near = _nearness(key, run, pivot, length)
        # From the order of runs back to that of the prompt.
        stands = order[pivot]
        key, value = (
            fp16(_placed(states, _merged(states, run, near, shape), stands).transpose(1, 2))
            for states in (key, value)
        )
        times = torch.zeros(rows.shape).scatter(2, stands, length)
        size_bytes = 4 * length.numel() * key.shape[-1] + self.number_bytes(rows.shape, count)
        return Held(key, value, size_bytes, times)

    def _order(self, rows: Rows) -> Tensor:
        """Rows so that those that may be joined are neighbours; int64 [tokens]."""
        place = torch.arange(rows.tokens)
        if not self.through_time:
            return place
        return (rows.cell * (rows.tokens + 1) + place).argsort()

    def _runs(self, rows: Rows, order: Tensor, key: Tensor, count: int) -> Tensor:
        """The run of each row, from 0 on, int64 [layers, kv_heads, tokens]; `count` of them."""
        alike = functional.cosine_similarity(key[:, :, 1:], key[:, :, :-1], dim=-1)
        if self.shared:
            alike = alike.mean((0, 1)).expand(alike.shape)
        if len(rows.sample):
            cell = rows.cell[order]
            apart = (cell[1:] < 0) | (cell[:-1] < 0)
            if self.through_time:
                apart |= cell[1:] != cell[:-1]
            alike = alike - 4.0 * apart
        joined = highest(alike, rows.tokens - count)
        return functional.pad((~joined).cumsum(-1), (1, 0))


def _nearness(key: Tensor, run: Tensor, pivot: Tensor, length: Tensor) -> Tensor:
    """Gaussian weight of each row by its distance from its run's pivot, [layers, heads, tokens]."""
    place = pivot.gather(2, run)[..., None].expand(key.shape)
    square = (key - key.gather(2, place)).square().sum(-1)
    mean = torch.zeros_like(length).scatter_add(2, run, square) / length
    return torch.exp(-square / (2 * mean.gather(2, run)).clamp(min=1e-12))


def _merged(states: Tensor, run: Tensor, near: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Weighted mean of each run, [layers, heads, runs, head_dim]."""
    sums = torch.zeros(*shape, states.shape[-1])
    sums.scatter_add_(2, run[..., None].expand(states.shape), states * near[..., None])
    return sums / torch.zeros(shape).scatter_add(2, run, near)[..., None]


def _placed(states: Tensor, merged: Tensor, stands: Tensor) -> Tensor:
    """Rows of the prompt's length with each run's row where it stands."""
    return torch.zeros_like(states).scatter(2, stands[..., None].expand(merged.shape), merged)
