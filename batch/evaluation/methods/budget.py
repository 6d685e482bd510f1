"""What a method may store of a video, what storing costs, and filling the one with the other.

Pure numpy; knows cells and tiers, no model and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batch.errors import BatchError
from cachefmt.tiers import Tier

Unit = Literal["tokens", "bytes"]


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
    """What storing costs, in the unit of a budget."""

    token: Mapping[Tier, int]
    """One token of each stored tier."""
    fixed: int
    """Everything that is there without any sample: text, and the file around it."""
    separators: NDArray[np.int64]
    """[samples]; what a sample costs on top of its cells as soon as one of them is stored."""


class Wish(NamedTuple):
    """Cells to be stored in a tier, the most wanted first; int64 [n], sample * cells + cell."""

    tier: Tier
    cells: NDArray[np.int64]


def fill(
    wishes: Sequence[Wish], shape: tuple[int, int], prices: Prices, budget: Budget | None
) -> NDArray[np.uint8]:
    """Grant wishes in order while they fit; a later wish may raise a cell to a better tier.

    What does not fit is passed over, so the rest goes to what still does: a budget of tokens is
    met exactly if there are enough cells, one of bytes to within a token of the last tier.

    Args:
        shape: samples, cells.
        budget: None grants everything.

    Returns:
        uint8 [samples, cells], codes of `Tier`. The first sample is always there, if empty.

    Raises:
        BatchError: not even the text fits.
    """
    samples, cells = shape
    tier = np.full(samples * cells, Tier.PRUNE, np.uint8)
    if budget is None:
        for wish in wishes:
            tier[wish.cells] = wish.tier
        return tier.reshape(shape)
    left = budget.amount - prices.fixed - int(prices.separators[0])
    if left < 0:
        raise BatchError(
            f"a budget of {budget.amount} {budget.unit} does not hold the text alone, "
            f"which takes {budget.amount - left}"
        )
    token = [prices.token.get(tier, 0) for tier in Tier]
    opening = [0, *(int(price) for price in prices.separators[1:])]
    for wish in wishes:
        for cell in wish.cells.tolist():
            price = token[wish.tier] - token[tier[cell]] + opening[cell // cells]
            if price <= left:
                left -= price
                tier[cell] = wish.tier
                opening[cell // cells] = 0
    return tier.reshape(shape)
