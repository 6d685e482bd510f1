"""PrefixKV: each layer as many rows as hold the same share of its attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Queries, Rows, text_first

_NEUTRAL = Queries("neutral")


@dataclass(frozen=True, kw_only=True)
class PrefixKV(Eviction):
    """The fewest rows of each layer that hold one share of its attention, of all layers one.

    The share is the one that meets the budget over all layers together; heads share rows.

    Source: PrefixKV (arXiv 2412.03409, the number from memory), read in its authors' code: their
    bisection gives what taking rows of all layers in order of the share before them gives.
    Departures: attention of a question about nothing behind the prefix (see DapQ), not of all
    queries; the shares are this video's own, not a mean over a few samples; protected is the text
    outside the samples, and no last row.
    """

    name = "prefixkv"

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_NEUTRAL,)

    def scores(self, rows: Rows, count: int) -> Tensor:
        """The share of its layer's attention that rows above it do not hold."""
        weight = rows.attention[_NEUTRAL].weight.mean(1)
        order = text_first(weight, rows).sort(dim=-1, descending=True, stable=True).indices
        share = weight.gather(1, order) / weight.sum(-1, keepdim=True)
        left = 1 - (share.cumsum(-1) - share)
        scores = torch.zeros_like(weight).scatter_(1, order, left)
        return text_first(scores, rows)[:, None].expand(rows.shape)

    def chosen(self, rows: Rows, count: int) -> Tensor:
        of_layers = self.scores(rows, count)[:, 0]
        order = of_layers.flatten().sort(descending=True, stable=True).indices
        chosen = torch.zeros(of_layers.numel(), dtype=torch.bool)
        chosen[order[: count * len(of_layers)]] = True
        return chosen.view_as(of_layers)[:, None].expand(rows.shape)

    def number_bytes(self, shape: tuple[int, int, int], count: int) -> int:
        layers, _, tokens = shape
        return layers * min(2 * count, -(-tokens // 8))
