"""Random cells: the control."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, all_cells
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class RandomTokens(CellMethod):
    """FP16 for cells drawn at random, the same ones each time for the same video.

    Source: none; a method that is not better has chosen nothing.
    """

    name: ClassVar[str] = "random"
    needs_budget: ClassVar[bool] = True
    reads_signals: ClassVar[bool] = False

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        rng = np.random.default_rng(int(manifest.video.sha256, 16))
        return [Ranking(Tier.FP16, rng.permutation(all_cells(manifest)))]
