"""Where a video shows something else than before, told from its signals. Pure numpy."""

from itertools import pairwise

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
    kept = np.flatnonzero(signals.kept)
    shares = np.zeros(len(kept), np.float32)
    # A row at a time: of hours of video, copies of all cells would be felt.
    for row, (before, sample) in enumerate(pairwise(kept), 1):
        apart = np.abs(signals.saliency[sample] - signals.saliency[before])
        is_new = (signals.difference[sample] > CELL_CHANGE) & (apart > CELL_CHANGE)
        shares[row] = is_new.mean()
    return shares
