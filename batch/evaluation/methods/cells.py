"""Methods that choose cells before the model runs: what is not chosen never enters it.

The author of a method writes which cells it wants first; budgets, separators and dropped samples
are settled here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES, TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds
from batch.evaluation.methods.budget import Budget, Prices, Wish, fill
from batch.settings import Pointers, Positions
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class CellPolicy(ABC):
    """A method that needs no attention.

    - temporal, thresholds: how the video is analysed for it.
    - positions, pointers: as for `make_plan`.
    - profile: the name of its settings, where a method has several.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool]
    """Whether it says nothing of how much to keep."""
    reads_signals: ClassVar[bool]
    """Whether it needs phase 1, or the pictures alone."""
    takes_budget: ClassVar[bool] = True

    temporal: TemporalSettings = TEMPORAL_PROFILES["none"]
    thresholds: TierThresholds = PROFILES["none"]
    positions: Positions = "original"
    pointers: Pointers = "nothing"
    profile: str | None = None

    @abstractmethod
    def wishes(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Wish]:
        """Which cells to store in which tier, the most wanted first."""

    def choose(
        self,
        manifest: Manifest,
        pictures: Sequence[bytes],
        prices: Prices,
        budget: Budget | None,
    ) -> Manifest:
        """The same video with the tiers of this method; samples without a cell are dropped.

        Args:
            manifest: made with this method's `temporal` and `thresholds`.
            pictures: PNG of every sample, pointers too.
            prices: in the unit of the budget.
            budget: None stores all that the method wants.
        """
        tier = fill(self.wishes(manifest, prices, budget), manifest.tier.shape, prices, budget)
        kept = (tier != Tier.PRUNE).any(axis=1)
        kept[0] = True
        source = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
        return replace(
            manifest,
            tier=tier,
            signals=replace(manifest.signals, source=source.astype(np.int32)),
            pictures=[png if keep else None for png, keep in zip(pictures, kept, strict=True)],
        )


def all_cells(manifest: Manifest) -> NDArray[np.int64]:
    """Every cell of every sample, in order."""
    return np.arange(manifest.tier.size)


def cells_of(order: NDArray[np.int64], manifest: Manifest) -> NDArray[np.int64]:
    """All cells of samples, sample by sample in this order."""
    cells = manifest.tier.shape[1]
    first_cells: NDArray[np.int64] = order[:, None] * cells
    return (first_cells + np.arange(cells)).ravel()


def best_first(score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Cells in order of a score [samples, cells], the highest first; ties stay in order."""
    return np.argsort(-score.ravel(), kind="stable")


def spread_samples(
    manifest: Manifest, tier: Tier, prices: Prices, budget: Budget | None
) -> NDArray[np.int64]:
    """All cells, first those of as many evenly spaced samples as the budget holds whole."""
    samples, cells = manifest.tier.shape
    order = np.arange(samples)
    if budget is not None:
        whole = cells * prices.token[tier] + int(prices.separators[0])
        count = min(max((budget.amount - prices.fixed) // whole, 1), samples)
        chosen = np.linspace(0, samples - 1, count).round().astype(np.int64)
        order = np.concatenate([chosen, np.setdiff1d(order, chosen)])
    return cells_of(order, manifest)
