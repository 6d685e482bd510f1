"""Which tier each cell of a sample got, in figures and in pictures."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cachefmt.tiers import Tier

INK: dict[Tier, tuple[int, int, int]] = {
    Tier.FP16: (230, 60, 50),
    Tier.INT8: (245, 170, 40),
    Tier.INT4: (60, 130, 230),
    Tier.PRUNE: (40, 40, 40),
}
OPACITY: dict[Tier, float] = {Tier.FP16: 0.45, Tier.INT8: 0.45, Tier.INT4: 0.12, Tier.PRUNE: 0.65}
"""0..1, of what is drawn over a picture, which is still to be seen; most cells are INT4."""
_WIDTH_PX = 672
_LEGEND_PX = 28


def tier_shares(tiers: NDArray[np.uint8]) -> dict[str, float]:
    """Share of cells in each tier, 0..1, by its name; of a manifest, pointers count as PRUNE."""
    return {tier.name: float((tiers == tier).mean()) for tier in Tier}


def draw_tiers(picture: NDArray[np.uint8], tiers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge a sample to 672 px, tint each cell by its tier, and add a legend with shares.

    Args:
        picture: uint8 RGB [height, width, 3].
        tiers: uint8 [rows, columns], codes of `Tier`.
    """
    return np.vstack([tint(picture, tiers, _WIDTH_PX), legend(tiers)])


def legend(tiers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ink and share of each tier, [height, 672, 3]."""
    drawn = np.full((_LEGEND_PX, _WIDTH_PX, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for place, (name, share) in enumerate(tier_shares(tiers).items()):
        left = 8 + place * _WIDTH_PX // len(Tier)
        cv2.rectangle(drawn, (left, 7), (left + 14, 21), INK[Tier[name]], cv2.FILLED)
        text = f"{name} {share:.0%}"
        cv2.putText(drawn, text, (left + 21, 19), font, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def tint(picture: NDArray[np.uint8], tiers: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    """Enlarge a sample to that width and tint it, without a legend."""
    size = (width_px, round(picture.shape[0] * width_px / picture.shape[1]))
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    inks = np.array([INK[tier] for tier in Tier], np.float32)[tiers]
    tints = np.array([OPACITY[tier] for tier in Tier], np.float32)[tiers]
    ink = cv2.resize(inks, size, interpolation=cv2.INTER_NEAREST)
    strength = cv2.resize(tints, size, interpolation=cv2.INTER_NEAREST)[..., None]
    drawn: NDArray[np.uint8] = np.rint(large * (1 - strength) + ink * strength).astype(np.uint8)
    return drawn
