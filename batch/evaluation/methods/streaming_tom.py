"""StreamingTOM: as many cells of every sample, the changed ones first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.feature_method import (
    FeatureMethod,
    Order,
    density_peaks,
    likeness_to_last,
    rank_in_sample,
)


@dataclass(frozen=True, kw_only=True)
class StreamingTOM(FeatureMethod):
    """Each sample gets the same budget: changed cells first, then the centres of still ones.

    Dropped cells are averaged into the nearest denser one of their sample.

    Source: StreamingTOM (arXiv 2510.18269, the number from memory): causal temporal reduction
    under a fixed budget a frame, two frames in view. From memory, not verified: the threshold of
    change, and that still cells are clustered by density. Departures: changed cells are ranked by
    their change, not by the tower's attention; its 4-bit memory is not there (see `low-bits`).
    """

    name = "streaming-tom"

    still: float = 0.9

    def order(self, features: Tensor) -> Order:
        samples, cells, _ = features.shape
        alike = likeness_to_last(features)
        peaks = [density_peaks(sample) for sample in features]
        centre = torch.stack([one.score for one in peaks])
        score = torch.where(alike < self.still, 3 - alike, centre)
        first = cells * torch.arange(samples)[:, None]
        parent = first + torch.stack([one.parent for one in peaks])
        return Order(-rank_in_sample(score), parent)
