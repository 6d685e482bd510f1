"""Ours: tiers and pointers from temporal and spatial signals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.evaluation.methods.cell_method import (
    Budget,
    CellMethod,
    Prices,
    Ranking,
    best_first,
    cells_of,
)
from batch.settings import Positions, Reuse
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class SaliCache(CellMethod):
    """What `batch prefill` stores at these settings.

    Under a budget, whole samples are taken: those that changed, the most changed first, then the
    first pointer of each still run, then the second, and so on. Of bytes, all cells are
    stored at INT4, and what is then left raises the most salient to INT8 and FP16; of tokens,
    each cell is in the tier of its saliency, INT4 at least.

    Source: the Sali-Cache paper (arXiv 2602.14236); the README says where we depart from it. The
    paper has no rule for a budget. Whole samples, because the demo model loses more by cells
    missing from every sample than by fewer samples.
    """

    name = "sali-cache"
    reads_signals = True

    positions: Positions = "compact"
    reuse: Reuse = "samples"

    def choose(
        self, manifest: Manifest, pictures: Sequence[bytes], prices: Prices, budget: Budget | None
    ) -> Manifest:
        if budget is None:
            return manifest
        return super().choose(manifest, pictures, prices, budget)

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        rankings = [Ranking(Tier.INT4, _changed_samples_first(manifest))]
        if budget is not None and budget.unit == "bytes":
            by_saliency = best_first(manifest.signals.saliency)
            return [*rankings, Ranking(Tier.INT8, by_saliency), Ranking(Tier.FP16, by_saliency)]
        for tier in (Tier.INT8, Tier.FP16):  # costs no token where the cell is stored already
            rankings.append(Ranking(tier, np.flatnonzero(manifest.tier <= tier)))
        return rankings


def _changed_samples_first(manifest: Manifest) -> NDArray[np.int64]:
    """All cells, sample by sample, the samples that a cache can least do without first."""
    place_in_still_run = np.arange(len(manifest.source)) - manifest.source
    change = manifest.signals.difference.max(axis=1)
    change[0] = np.inf
    return cells_of(np.lexsort((-change, place_in_still_run)), manifest)
