"""ToMe: cells of a sample that are alike become one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.feature_method import FeatureMethod, Order


@dataclass(frozen=True, kw_only=True)
class ToMe(FeatureMethod):
    """Every second cell is matched to the most similar of the others; the most alike go first.

    The half that is left is halved in turn. Every sample gives as many.

    Source: Token Merging (arXiv 2210.09461): bipartite soft matching, proportional attention; from
    memory. LightKV (arXiv 2605.00789), read in its authors' code, does it in windows between the
    decoder's layers, guided by the prompt. Departures: of what the decoder gets, not between a
    tower's blocks; similarity of features, not of keys; a cell is matched as it was, without what
    was merged into it.
    """

    name = "tome"
    counts = True

    def order(self, features: Tensor) -> Order:
        samples, cells, _ = features.shape
        unit = functional.normalize(features, dim=-1)
        score = torch.empty(samples, cells)
        parent = torch.arange(samples * cells).view(samples, cells)
        for sample in range(samples):
            alive, gone = torch.arange(cells), 0
            while len(alive) > 1:
                leaves, stays = alive[1::2], alive[::2]
                alike, nearest = (unit[sample, leaves] @ unit[sample, stays].T).max(-1)
                order = alike.argsort(descending=True, stable=True)
                score[sample, leaves[order]] = torch.arange(gone, gone + len(leaves)).float()
                parent[sample, leaves] = sample * cells + stays[nearest]
                alive, gone = stays, gone + len(leaves)
            score[sample, alive] = gone
        return Order(score, parent)
