"""HoliTom: what stays the same through a segment is one cell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.feature_method import (
    FeatureMethod,
    Order,
    density_peaks,
    first_of,
    likeness_to_last,
    segments,
)


@dataclass(frozen=True, kw_only=True)
class HoliTom(FeatureMethod):
    """Cells that are still since their segment began go into its first sample; others by density.

    Source: HoliTom (arXiv 2505.21334, the number from memory), its outer part: segments, merging
    in time, then merging in space by density peaks. From memory, not verified: the threshold of
    0.8. Departures: segments begin where the mean features turn, instead of those that save most
    (a dynamic program); cells are ranked by density, not by the tower's attention; its merging
    inside the decoder gives layers different tokens, and is left out.
    """

    name = "holitom"

    still: float = 0.8
    cut: float = 0.9

    def order(self, features: Tensor) -> Order:
        samples, cells, _ = features.shape
        first = first_of(segments(features, self.cut))
        alike = likeness_to_last(features)
        is_still = torch.zeros(samples, cells, dtype=torch.bool)
        for sample in range(samples):
            begun = sample == first[sample]
            before = torch.ones(cells, dtype=torch.bool) if begun else is_still[sample - 1]
            before = before | bool(sample - 1 == first[sample])
            is_still[sample] = False if begun else before & (alike[sample] > self.still)
        peaks = [density_peaks(sample) for sample in features]
        place = torch.arange(cells)
        own = cells * torch.arange(samples)[:, None] + torch.stack([one.parent for one in peaks])
        parent = torch.where(is_still, cells * first[:, None] + place, own)
        centre = torch.stack([one.score for one in peaks])
        return Order(centre + 2 * ~is_still, parent)
