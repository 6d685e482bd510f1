"""CurveStream: samples at which the way of the features turns stay whole."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.feature_method import FeatureMethod, Order


@dataclass(frozen=True, kw_only=True)
class CurveStream(FeatureMethod):
    """Whole samples by curvature, then a quarter of the cells of all others, then the rest.

    Curvature is the angle between the way to a sample's mean features and the way from it: a
    steady pan has none. Those above mean and deviation of all are the clear ones.

    Source: CurveStream (arXiv 2603.19571): clear and fuzzy memories by curvature, mean and
    deviation. From its abstract; formula, factor of the deviation (here 0.5) and rate of the fuzzy
    memory are not verified. Departures: over the whole video, not running; first and last sample
    are clear; fuzzy cells are every fourth.
    """

    name = "curve-stream"

    deviations: float = 0.5

    def order(self, features: Tensor) -> Order:
        samples, cells, _ = features.shape
        way = features.mean(1).diff(dim=0)
        turn = 1 - functional.cosine_similarity(way[1:], way[:-1], dim=-1)
        # What does not move does not turn.
        turn = torch.where((way[1:].norm(dim=-1) * way[:-1].norm(dim=-1)) > 1e-6, turn, 0.0)
        edge = torch.full((min(2, samples),), 2.0)
        curvature = torch.cat([edge[:1], turn, edge[1:]])
        inner = turn if len(turn) > 1 else torch.zeros(2)
        bound = inner.mean() + self.deviations * inner.std(unbiased=False)
        clear = curvature > bound
        is_fuzzy = torch.arange(cells) % 4 == 0
        score = curvature[:, None] + 10.0 * (clear[:, None] + 0.5 * is_fuzzy)
        return Order(score)
