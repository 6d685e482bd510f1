"""VidCom2: more cells for samples that are unlike the video, and cells unlike their sample."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.feature_method import FeatureMethod, Order, rank_in_sample

_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class VidCom2(FeatureMethod):
    """Cells by how unlike they are to the mean of their sample and of the video.

    A sample's share of the budget follows how unlike its cells are to the video's mean.

    Source: VidCom2 (arXiv 2505.14454, the number from memory): uniqueness of frames and tokens by
    Gaussian kernels of several widths. From memory, not verified: the widths, and the sharpness of
    the softmax that shares the budget, here 1 of standardised uniqueness.
    """

    name = "vidcom2"

    def order(self, features: Tensor) -> Order:
        unit = functional.normalize(features, dim=-1)
        in_video = _unlike(unit, unit.mean((0, 1)))
        in_sample = _unlike(unit, unit.mean(1, keepdim=True))
        frame = in_video.mean(1)
        spread = frame.std(unbiased=False).clamp(min=1e-6)
        share = ((frame - frame.mean()) / spread).softmax(0)
        # The next cell of the sample that is furthest below its share.
        taken = rank_in_sample(in_video + in_sample) + 0.5
        return Order(-taken / share[:, None])


def _unlike(unit: Tensor, centre: Tensor) -> Tensor:
    square = (unit - centre).square().sum(-1)
    return -torch.stack([torch.exp(-square / (2 * width)) for width in _WIDTHS]).sum(0)
