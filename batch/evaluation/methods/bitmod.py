"""BitMoD: three bits on the grid that fits a group best."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.packing import Rounded, by_channel
from batch.evaluation.methods.row_method import Codec, Held, Rows

_GRIDS = torch.tensor([[-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, extra] for extra in (3, -3, 6, -6)])
"""[grids, codes]"""


@dataclass(frozen=True, kw_only=True)
class BitMoD(Codec):
    """Each group of 64 tokens of a channel on one of four grids of eight numbers, times a scale.

    Source: BitMoD (arXiv 2411.11745, the number from memory), its 3-bit grids {0, 1, 2, 4 and
    negatives} with one of +3, -3, +6, -6, read in its authors' code. Departures: made for weights
    in groups of 128 inputs; here groups are per channel, which keys want (see KIVI); the scale is
    the largest magnitude over the grid's.
    """

    name = "bitmod"

    tokens: int = 64

    def encode(self, rows: Rows) -> Held:
        kinds, size_bytes = [], 0
        for states in (rows.key, rows.value):
            layers = [by_channel(layer, self.tokens, _on_grids) for layer in states]
            kinds.append(torch.stack([layer.states for layer in layers]))
            size_bytes += sum(layer.size_bytes for layer in layers)
        return Held(kinds[0], kinds[1], size_bytes)


def _on_grids(groups: Tensor) -> Rounded:
    """Three bits a number; a group's scale at FP16, and two bits for its grid."""
    best, least = torch.zeros_like(groups), torch.full(groups.shape[:-1], torch.inf)
    for grid in _GRIDS:
        scale = (groups.abs().amax(-1, keepdim=True) / grid.abs().max()).half().float()
        step = torch.where(scale == 0, 1, scale)
        code = (groups[..., None] / step[..., None] - grid).abs().argmin(-1)
        decoded = grid[code] * scale
        error = (decoded - groups).square().sum(-1)
        better = error < least
        best = torch.where(better[..., None], decoded, best)
        least = torch.where(better, error, least)
    size_bytes = -(-3 * groups.numel() // 8) + 2 * least.numel() + -(-2 * least.numel() // 8)
    return Rounded(best, size_bytes)
