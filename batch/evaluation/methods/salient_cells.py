"""The most salient cells, whatever changes: what a saliency is worth by itself."""

from dataclasses import dataclass

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import (
    Budget,
    CellMethod,
    Prices,
    Ranking,
    best_first,
)
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class SalientCells(CellMethod):
    """FP16 for the most salient cells of the whole video, positions kept.

    Source: eq. 7 of the Sali-Cache paper (arXiv 2602.14236) without its temporal half. Against
    `random`, which differs from it in the order alone, it says what the order is worth.
    """

    name = "salient-cells"
    needs_budget = True
    reads_signals = True

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(Tier.FP16, best_first(manifest.signals.saliency))]
