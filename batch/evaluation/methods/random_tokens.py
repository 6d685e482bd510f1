"""Random cells: the control."""

from dataclasses import dataclass

import numpy as np

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class RandomTokens(CellMethod):
    """FP16 for cells drawn at random, the same ones each time for the same video.

    Source: none; a method that is not better has chosen nothing.
    """

    name = "random"
    needs_budget = True

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        rng = np.random.default_rng(int(manifest.video.sha256, 16))
        return [Ranking(Tier.FP16, rng.permutation(manifest.tier.size))]
