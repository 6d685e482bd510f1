"""Everything is stored as the model made it."""

from dataclasses import dataclass

import numpy as np

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class Full(CellMethod):
    """All slots at FP16, through our own path: whatever it loses, the path loses.

    Source: none; it is `--profile none`.
    """

    name = "full"
    kind = "whole"
    takes_budget = False

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(Tier.FP16, np.arange(manifest.tier.size))]
