"""Ours: tiers and pointers from temporal and spatial signals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from batch.analysis.manifest import Manifest
from batch.policies.budget import Budget, Prices, Wish
from batch.policies.cells import CellPolicy, best_first
from batch.prefill.plan import Pointers, Positions
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class SaliCache(CellPolicy):
    """What `batch prefill` stores at these settings.

    Under a budget, cells are taken by how much they differ from the last kept sample, the first
    sample before all: of bytes, all at INT4, and what is then left raises the most salient to
    INT8 and FP16; of tokens, each in the tier that its saliency gives it, INT4 at least.

    Source: the Sali-Cache paper (arXiv 2602.14236); the README says where we depart from it. The
    paper has no rule for a budget.
    """

    name: ClassVar[str] = "sali-cache"
    needs_budget: ClassVar[bool] = False
    reads_signals: ClassVar[bool] = True

    positions: Positions = "compact"
    pointers: Pointers = "multiplicity"

    def choose(
        self,
        manifest: Manifest,
        pictures: Sequence[bytes],
        prices: Prices,
        budget: Budget | None,
    ) -> Manifest:
        if budget is None:
            return manifest
        return super().choose(manifest, pictures, prices, budget)

    def wishes(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Wish]:
        novelty = manifest.signals.difference.copy()
        novelty[0] = np.inf
        wishes = [Wish(Tier.INT4, best_first(novelty))]
        if budget is not None and budget.unit == "bytes":
            by_saliency = best_first(manifest.signals.saliency)
            return [*wishes, Wish(Tier.INT8, by_saliency), Wish(Tier.FP16, by_saliency)]
        for tier in (Tier.INT8, Tier.FP16):  # costs no token where the cell is stored already
            wishes.append(Wish(tier, np.flatnonzero(manifest.tier <= tier)))
        return wishes
