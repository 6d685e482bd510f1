"""Where a video shows something else than before, told from its signals. Pure numpy."""

import numpy as np
from numpy.typing import NDArray

from batch.analysis.signals import Signals

CELL_CHANGE = 0.05
"""A cell shows something else where its difference and its saliency both changed by more.

Difference alone takes light that changes, and much of what moves, for another picture.
"""
SCENE_SHARE = 0.5
"""A scene begins where more than this share of the cells shows something else."""


def changed_shares(signals: Signals) -> NDArray[np.float32]:
    """How much of each kept sample shows something else than the kept one before.

    A guess: a wide pan, a fade or a figure that fills the picture can pass for a new scene, and a
    cut within one room for none. The more changes, the surer it is a cut.

    Returns:
        Shares of cells, 0..1; float32 [kept samples], 0 for the first.

    Source: thresholds are ours. Which joins of real clips they find, and what else, is printed by
    `python -m tests.end_to_end.joins FOLDER`.
    """
    kept = signals.kept
    saliency = signals.saliency[kept]
    apart = np.abs(np.diff(saliency, axis=0, prepend=saliency[:1]))
    changed = (signals.difference[kept] > CELL_CHANGE) & (apart > CELL_CHANGE)
    shares: NDArray[np.float32] = changed.mean(axis=1, dtype=np.float32)
    return shares
