"""Differential token drop, by features: a cell that looks as before goes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.feature_method import FeatureMethod, Order, likeness_to_last


@dataclass(frozen=True, kw_only=True)
class DTD(FeatureMethod):
    """Cells by how little they are like the same cell of the sample before; the first is whole.

    Source: TimeChat-Online (arXiv 2504.17343), its variant by features; `token-drop` is the one by
    pixels. From the paper. Departure: as many as the budget holds, instead of a threshold.
    """

    name = "dtd"

    def order(self, features: Tensor) -> Order:
        score = -likeness_to_last(features)
        score[0] = torch.inf
        return Order(score)
