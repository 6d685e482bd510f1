"""From signals to tiers. Knows thresholds and profiles; knows no pictures."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from batch.analysis.signals import Signals
from batch.video.settings import Settings
from cachefmt.tiers import Tier

_TIER_FIELDS = ("static", "changed")


@dataclass(frozen=True, kw_only=True)
class TierThresholds(Settings):
    """Least saliency, 0..1, of each tier; below all of them a cell is pruned. Eq. 8.

    - static: best tier for a cell that is static against the reference of its kept sample, which
      has nearly the same cell already. None: saliency alone, the paper.
    - changed: worst tier for a cell that is not static against that reference: what is new is
      not dropped for being plain, like dark hair. None: saliency alone, the paper.
    - pointers: False refuses samples without tokens.

    The first sample has no reference: its saliency decides.
    """

    fp16: float
    int8: float
    int4: float
    static: Tier | None
    changed: Tier | None = None
    pointers: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.int4 <= self.int8 <= self.fp16:
            raise ValueError(
                f"tier thresholds: got int4 {self.int4}, int8 {self.int8}, fp16 {self.fp16}, "
                "expected 0 <= int4 <= int8 <= fp16"
            )

    def to_dict(self) -> dict[str, Any]:
        tiers = {key: getattr(self, key) for key in _TIER_FIELDS}
        names = {key: None if tier is None else tier.name for key, tier in tiers.items()}
        return {**super().to_dict(), **names}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: an unknown or missing key, an unknown tier, or thresholds out of order.
        """
        if isinstance(data, dict):
            tiers = {key: _tier(key, data[key]) for key in _TIER_FIELDS if key in data}
            data = {**data, **tiers}
        return super().from_dict(data)


def _tier(key: str, name: str | None) -> Tier | None:
    if name is None:
        return None
    if name not in Tier.__members__:
        raise ValueError(f"{key}: got {name!r}, supported are {list(Tier.__members__)}")
    return Tier[name]


# Neither profile's numbers are published ones: the paper's code stretches each picture's saliency
# to 0..1, so its thresholds mean nothing on our absolute scale.
# "paper" aims at the paper's mix (20-25 % FP16, 25 % INT8, 25 % INT4, the rest pruned): on ten real
# clips (301 samples, 140 of them of one clip) 36 / 30 / 21 / 13 percent of the cells of kept
# samples at 112 px and 8x8 cells, 27 / 20 / 20 / 33 at 336 px and 24x24.
# "default" stores most at INT4: on 90 drawn films of all kinds INT4 for every token cost 0.3 % of
# the right answers, so INT8 and FP16 are left to what is busiest. Same clips, at most 56 samples
# of each, 112 px: 1 / 11 / 77 / 11 percent.
PROFILES: dict[str, TierThresholds] = {
    "none": TierThresholds(fp16=0.0, int8=0.0, int4=0.0, static=None, pointers=False),
    "paper": TierThresholds(fp16=0.35, int8=0.06, int4=0.002, static=None),
    "default": TierThresholds(fp16=0.8, int8=0.5, int4=0.001, static=Tier.INT4, changed=Tier.INT4),
}


def assign(signals: Signals, thresholds: TierThresholds) -> NDArray[np.uint8]:
    """Choose a tier for each cell: uint8 [samples, cells], codes of `Tier`.

    All cells of a pointer are PRUNE: the sample it points to stands for them.
    """
    levels = (thresholds.fp16, thresholds.int8, thresholds.int4)
    reached = [signals.saliency >= level for level in levels]
    tiers = np.select(reached, [Tier.FP16, Tier.INT8, Tier.INT4], Tier.PRUNE).astype(np.uint8)
    if thresholds.static is not None:
        tiers[signals.static] = np.maximum(tiers[signals.static], thresholds.static)
    if thresholds.changed is not None:
        changed = ~signals.static
        changed[0] = False
        tiers[changed] = np.minimum(tiers[changed], thresholds.changed)
    tiers[~signals.kept] = Tier.PRUNE
    return tiers


def profile_name(thresholds: TierThresholds) -> str | None:
    """Name of the profile with exactly these thresholds; None if there is none."""
    return next((name for name, profile in PROFILES.items() if profile == thresholds), None)
