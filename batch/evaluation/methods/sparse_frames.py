"""Uniform frame sampling: fewer samples, each of them whole."""

from dataclasses import dataclass

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, spread_samples
from batch.settings import Positions
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class SparseFrames(CellMethod):
    """FP16 for as many evenly spaced samples as fit, as if no other had been taken.

    Source: the usual way to fit a long video into a model's context. Departure: what is left of
    the budget goes to the first cells of one more sample, so that it is met.
    """

    name = "sparse-frames"
    needs_budget = True

    positions: Positions = "compact"

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(Tier.FP16, spread_samples(manifest, Tier.FP16, prices, budget))]
