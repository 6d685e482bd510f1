"""The signals of one video as arrays, and where they say that a scene begins. Knows no files."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

CELL_CHANGE = 0.05
"""A cell shows something else where its difference and its saliency both changed by more.

Difference alone takes light that changes, and much of what moves, for another picture.
"""
SCENE_SHARE = 0.5
"""A scene begins where more than this share of the cells shows something else."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What was measured of a video's samples and cells.

    - flow_px, difference, saliency: float32 [samples, cells]; flow and difference of the first
      sample, which has no reference, are 0; so is the flow of a sample that is told from its
      difference alone.
    - static: bool [samples, cells], against the sample's reference; False in the first sample.
    - redundancy: float32 [samples], share of static cells, 0..1.
    - source: int32 [samples], the sample's own index if it is kept, else the earlier kept sample
      that stands for it.
    """

    flow_px: NDArray[np.float32]
    difference: NDArray[np.float32]
    saliency: NDArray[np.float32]
    static: NDArray[np.bool_]
    redundancy: NDArray[np.float32]
    source: NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = [
            part.shape for part in (self.flow_px, self.difference, self.saliency, self.static)
        ]
        samples = (self.source.shape, self.redundancy.shape)
        if len(set(shapes)) != 1 or self.saliency.ndim != 2 or set(samples) != {shapes[0][:1]}:
            raise ValueError(f"signals: got shapes {shapes} and {samples}, expected one length")
        measured = (self.flow_px, self.difference, self.saliency, self.redundancy)
        if not all(np.isfinite(part).all() and (part >= 0).all() for part in measured):
            raise ValueError("signals: got NaN, infinite or negative values")
        index = np.arange(len(self.source))
        if not len(index) or (self.source < 0).any() or (self.source > index).any():
            raise ValueError("signals: a source is not its own or an earlier sample")
        if (self.source[self.source] != self.source).any():
            raise ValueError("signals: a pointer points to a pointer")

    def part(self, samples: slice) -> Self:
        """Those of some samples in a row; the first of them is kept from now on."""
        return replace(
            self,
            flow_px=self.flow_px[samples],
            difference=self.difference[samples],
            saliency=self.saliency[samples],
            static=self.static[samples],
            redundancy=self.redundancy[samples],
            source=np.maximum(self.source[samples] - samples.start, 0),
        )

    @property
    def kept(self) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = self.source == np.arange(len(self.source))
        return kept

    @property
    def multiplicity(self) -> NDArray[np.int32]:
        """int32 [samples]: 1 + the number of pointers to a kept sample, 0 for pointers."""
        return np.bincount(self.source, minlength=len(self.source)).astype(np.int32)


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
