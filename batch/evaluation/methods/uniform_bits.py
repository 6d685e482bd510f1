"""One tier for every cell."""

from dataclasses import dataclass
from typing import ClassVar

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.budget import Budget, Prices, Wish
from batch.evaluation.methods.cells import CellPolicy, spread_samples
from batch.settings import Positions
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class UniformBits(CellPolicy):
    """Every cell in the tier; under a budget, those of evenly spaced samples.

    Source: plain round-to-nearest quantisation of the whole cache, with our codecs.
    """

    name: ClassVar[str] = "uniform"
    needs_budget: ClassVar[bool] = False
    reads_signals: ClassVar[bool] = False

    tier: Tier
    positions: Positions = "compact"

    def wishes(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Wish]:
        return [Wish(self.tier, spread_samples(manifest, self.tier, prices, budget))]
