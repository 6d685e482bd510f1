"""Which tier each cell of a sample got, or that it is reused, in figures and in pictures."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cachefmt.tiers import Tier

REUSED = len(Tier)
"""State of a cell that was not computed, beside the codes of tiers, which say how it is stored."""
STATES = {**{int(tier): tier.name for tier in Tier}, REUSED: "reused"}
INK: dict[int, tuple[int, int, int]] = {
    Tier.FP16: (230, 60, 50),
    Tier.INT8: (245, 170, 40),
    Tier.INT4: (60, 130, 230),
    Tier.PRUNE: (40, 40, 40),
    REUSED: (30, 160, 110),
}
OPACITY: dict[int, float] = {
    Tier.FP16: 0.45,
    Tier.INT8: 0.45,
    Tier.INT4: 0.12,
    Tier.PRUNE: 0.65,
    REUSED: 0.3,
}
"""0..1, of what is drawn over a picture, which is still to be seen; most cells are INT4."""
_WIDTH_PX = 672
_LEGEND_PX = 28


def tier_shares(states: NDArray[np.uint8]) -> dict[str, float]:
    """Share of cells in each state, 0..1, by its name; of a manifest, pointers count as PRUNE.

    Cells that are reused are named only where there are some.
    """
    shares = {name: float((states == state).mean()) for state, name in STATES.items()}
    return {name: share for name, share in shares.items() if share or name in Tier.__members__}


def legend(states: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ink and share of each state, [height, 672, 3]."""
    drawn = np.full((_LEGEND_PX, _WIDTH_PX, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    shares = tier_shares(states)
    for state, (name, share) in enumerate(shares.items()):
        left = 8 + state * _WIDTH_PX // len(shares)
        cv2.rectangle(drawn, (left, 7), (left + 14, 21), INK[state], cv2.FILLED)
        text = f"{name} {share:.0%}"
        cv2.putText(drawn, text, (left + 21, 19), font, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def tint(picture: NDArray[np.uint8], states: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    """Enlarge a sample to that width and tint each cell by its state.

    Args:
        picture: uint8 RGB [height, width, 3].
        states: uint8 [rows, columns], codes of `STATES`.
    """
    size = (width_px, round(picture.shape[0] * width_px / picture.shape[1]))
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    inks = np.array([INK[state] for state in STATES], np.float32)[states]
    tints = np.array([OPACITY[state] for state in STATES], np.float32)[states]
    ink = cv2.resize(inks, size, interpolation=cv2.INTER_NEAREST)
    strength = cv2.resize(tints, size, interpolation=cv2.INTER_NEAREST)[..., None]
    drawn: NDArray[np.uint8] = np.rint(large * (1 - strength) + ink * strength).astype(np.uint8)
    return drawn
