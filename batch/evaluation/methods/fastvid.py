"""FastVID: anchor samples of each segment, into which the others are merged."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.feature_method import (
    FeatureMethod,
    Order,
    density_peaks,
    first_of,
    segments,
)


@dataclass(frozen=True, kw_only=True)
class FastVID(FeatureMethod):
    """Every fourth sample of a segment is an anchor; its densest cells take in all like them.

    Source: FastVID (arXiv 2503.11187, the number from memory): segments where frames turn (0.9),
    anchors every 4 frames, density peaks. From memory, not verified. Departures: its other part,
    cells by the tower's attention, is left out; what is not an anchor comes last, the most unlike
    its anchor first.
    """

    name = "fastvid"

    cut: float = 0.9
    every: int = 4

    def order(self, features: Tensor) -> Order:
        samples, cells, _ = features.shape
        first = first_of(segments(features, self.cut))
        number = torch.arange(samples)
        anchor = number - (number - first) % self.every
        unit = functional.normalize(features, dim=-1)
        score, parent = torch.empty(samples, cells), torch.empty(samples, cells).long()
        for sample, of in enumerate(anchor.tolist()):
            if sample == of:
                centre, up = density_peaks(features[sample])
                score[sample], parent[sample] = 2 + centre, sample * cells + up
            else:
                alike, nearest = (unit[sample] @ unit[of].T).max(-1)
                score[sample], parent[sample] = -alike, of * cells + nearest
        return Order(score, parent)
