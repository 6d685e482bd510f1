"""Everything is stored as the model made it."""

from dataclasses import dataclass
from typing import ClassVar

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.budget import Budget, Prices, Wish
from batch.evaluation.methods.cells import CellPolicy, all_cells
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class Full(CellPolicy):
    """All slots at FP16, through our own path: whatever it loses, the path loses.

    Source: none; it is `--profile none`.
    """

    name: ClassVar[str] = "full"
    needs_budget: ClassVar[bool] = False
    reads_signals: ClassVar[bool] = False
    takes_budget: ClassVar[bool] = False

    def wishes(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Wish]:
        return [Wish(Tier.FP16, all_cells(manifest))]
