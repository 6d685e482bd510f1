"""One tier for every cell."""

from dataclasses import dataclass

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, spread_samples
from batch.settings import Positions
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class UniformBits(CellMethod):
    """Every cell in the tier; under a budget, those of evenly spaced samples.

    Source: plain round-to-nearest quantisation of the whole cache, with our codecs.
    """

    name = "uniform"
    kind = "bits"

    tier: Tier
    positions: Positions = "compact"

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(self.tier, spread_samples(manifest, self.tier, prices, budget))]
