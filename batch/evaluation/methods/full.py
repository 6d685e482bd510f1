"""Everything is stored as the model made it."""

from dataclasses import dataclass
from typing import ClassVar

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, all_cells
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class Full(CellMethod):
    """All slots at FP16, through our own path: whatever it loses, the path loses.

    Source: none; it is `--profile none`.
    """

    name: ClassVar[str] = "full"
    needs_budget: ClassVar[bool] = False
    reads_signals: ClassVar[bool] = False
    takes_budget: ClassVar[bool] = False

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        return [Ranking(Tier.FP16, all_cells(manifest))]
