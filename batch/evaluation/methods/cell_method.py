"""Methods that choose cells before the model runs: what is not chosen never enters it.

The author of a method ranks cells; budgets, separators and dropped samples are settled here. Pure
numpy; knows cells and tiers, no model and no file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES, TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds
from batch.errors import BatchError
from batch.evaluation.methods.row_method import Kind
from batch.settings import Positions, Quality, Reuse, Unit
from cachefmt.tiers import Tier


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that may be stored of one video; text and separators count."""

    amount: int
    unit: Unit

    def __post_init__(self) -> None:
        if self.amount < 1:
            raise ValueError(f"budget: got {self.amount} {self.unit}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What storing costs, in the unit of a budget.

    - token: one of each stored tier.
    - fixed: what is there without any sample, text and the file around it.
    - separators: [samples], what a sample costs as soon as one of its cells is stored.
    """

    token: Mapping[Tier, int]
    fixed: int
    separators: NDArray[np.int64]


class Ranking(NamedTuple):
    """Cells to be stored in a tier, the most wanted first; int64 [n], sample * cells + cell."""

    tier: Tier
    cells: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CellMethod(ABC):
    """A method that needs no attention.

    - needs_budget: whether it leaves open how much to keep.
    - reads_signals: whether it needs phase 1, or the pictures alone.
    - temporal, thresholds: how the video is analysed for it.
    - positions, reuse: as for `make_plan`; quality: as for `CacheSettings`.
    - profile: the name of its settings, where a method has several.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "before"
    in_file: ClassVar[bool] = True
    needs_budget: ClassVar[bool] = False
    reads_signals: ClassVar[bool] = False
    takes_budget: ClassVar[bool] = True

    temporal: TemporalSettings = TEMPORAL_PROFILES["none"]
    thresholds: TierThresholds = PROFILES["none"]
    positions: Positions = "original"
    reuse: Reuse = "none"
    quality: Quality = "lossless"
    profile: str | None = None

    @abstractmethod
    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        """Which cells to store in which tier; a later ranking may raise a cell to a better one."""

    def choose(
        self, manifest: Manifest, pictures: Sequence[bytes], prices: Prices, budget: Budget | None
    ) -> Manifest:
        """The same video with the tiers of this method; samples without a cell are dropped.

        Args:
            manifest: made with this method's `temporal` and `thresholds`.
            pictures: PNG of every sample, pointers too.
        """
        tier = fill(self.rank(manifest, prices, budget), manifest.tier.shape, prices, budget)
        kept = (tier != Tier.PRUNE).any(axis=1)
        kept[0] = True
        source = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
        return replace(
            manifest,
            tier=tier,
            signals=replace(manifest.signals, source=source.astype(np.int32)),
            pictures=[png if keep else None for png, keep in zip(pictures, kept, strict=True)],
        )


def fill(
    rankings: Sequence[Ranking], shape: tuple[int, int], prices: Prices, budget: Budget | None
) -> NDArray[np.uint8]:
    """Store ranked cells in order while they fit; a later ranking may raise a cell's tier.

    What does not fit is passed over, so the rest goes to what still does: a budget of tokens is
    met exactly if there are enough cells, one of bytes to within a token of the last tier.

    Args:
        shape: samples, cells; that of what is returned, codes of `Tier`.

    Raises:
        BatchError: not even the text fits.
    """
    samples, cells = shape
    tier = np.full(samples * cells, Tier.PRUNE, np.uint8)
    if budget is None:
        for ranking in rankings:
            tier[ranking.cells] = ranking.tier
        return tier.reshape(shape)
    left = budget.amount - prices.fixed - int(prices.separators[0])
    if left < 0:
        raise BatchError(
            f"a budget of {budget.amount} {budget.unit} does not hold the text alone, "
            f"which takes {budget.amount - left}"
        )
    token = [prices.token.get(tier, 0) for tier in Tier]
    opening = [0, *(int(price) for price in prices.separators[1:])]
    for ranking in rankings:
        for cell in ranking.cells.tolist():
            price = token[ranking.tier] - token[tier[cell]] + opening[cell // cells]
            if price <= left:
                left -= price
                tier[cell] = ranking.tier
                opening[cell // cells] = 0
    return tier.reshape(shape)


def cells_of(order: NDArray[np.int64], manifest: Manifest) -> NDArray[np.int64]:
    """All cells of samples, sample by sample in this order."""
    numbers: NDArray[np.int64] = np.arange(manifest.tier.size).reshape(manifest.tier.shape)
    return numbers[order].ravel()


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
