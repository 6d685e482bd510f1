"""The whole file as the product writes it: every slot, by its transform codec."""

from dataclasses import dataclass

import numpy as np

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking
from batch.settings import Quality
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class Klt(CellMethod):
    """All slots through `klt`, its basis in the file; the profile is the quality.

    Source: none; it is `--profile none --quality QUALITY`. Bytes are those of the whole file.
    """

    name = "klt"
    kind = "bits"
    takes_budget = False

    quality: Quality = "standard"

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(Tier.FP16, np.arange(manifest.tier.size))]
