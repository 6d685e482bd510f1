"""What changed in a sample against an earlier one. Knows pictures and cells; knows no video."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.settings import Reference, check_choice
from batch.video.geometry import Geometry
from batch.video.settings import Settings

Rgb = NDArray[np.uint8]
Cells = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TemporalSettings(Settings):
    """When a cell is static, and when a sample is redundant. Differences are 0..1.

    - reference: "kept" compares with the last kept sample, of a still stretch its first;
      "previous" with the previous one (the paper; a slow drift is then never noticed); "cells"
      each cell with the sample in which it changed last, so with the one it would be reused from.
    - still_threshold: below this difference nothing but noise changed: the flow is taken as 0.
    - flow_threshold_px, difference_threshold: a cell below both is static. So the flow decides
      only between still_threshold and difference_threshold; a sample without a cell there is
      told from its difference alone, and its flow is not computed.
    - redundancy_threshold: theta_R; a sample with a larger share of static cells is redundant.
    - still_samples: of a still stretch, its first sample included, so many samples are kept before
      the rest become pointers. The default profile keeps 2; what 1 and 3 cost and buy
      is in `batch evaluate --suite ablations`. The paper keeps 1.
    - change_threshold: a sample in which any cell's difference is larger is kept, whatever the
      share. None: the paper's rule, by which a small object in a still scene is lost.

    Source: the defaults are measured on drawn still scenes, cells of 14x14 px, 112 and 336 px
    wide; largest difference of any cell. Camera noise of sigma 5 grey levels: 0.031, and 0.034
    after H.264 (crf 10-38). A red square of 5x5 px, at the worst of 196 placements in that noise:
    0.067; after H.264, at the worst of 4 placements: 0.053 (crf 10-30), 0.038 (crf 38). So 0.04
    parts them up to crf 30. It does not part a square only 40 grey levels lighter (0.038 at
    worst, after H.264 0.023), nor noise of sigma 10 (0.047 after H.264), which can keep still
    samples. With still and difference thresholds this close, the flow decides little: over a
    second it is poorly determined.
    """

    reference: Reference = "kept"
    still_threshold: float = 0.035
    flow_threshold_px: float = 0.5
    difference_threshold: float = 0.04
    redundancy_threshold: float = 0.9
    still_samples: int = 1
    change_threshold: float | None = 0.04

    def __post_init__(self) -> None:
        check_choice("reference", self.reference, Reference)
        if self.still_samples < 1:
            raise ValueError(f"still_samples: got {self.still_samples}, expected 1 or more")
        numbers = (
            self.still_threshold,
            self.flow_threshold_px,
            self.difference_threshold,
            self.redundancy_threshold,
            0.0 if self.change_threshold is None else self.change_threshold,
        )
        if not all(np.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError(f"temporal: got {numbers}, expected finite numbers of 0 or more")

    def is_static(self, flow_px: Cells, difference: Cells) -> NDArray[np.bool_]:
        """Which cells are static; any shape, the same as of both inputs."""
        static: NDArray[np.bool_] = (flow_px < self.flow_threshold_px) & (
            difference < self.difference_threshold
        )
        return static

    def static_cells(self, flow_px: Cells, difference: Cells) -> NDArray[np.bool_]:
        """As `is_static`, [samples, cells] of a whole video: its first sample has no reference."""
        static = self.is_static(flow_px, difference)
        static[0] = False
        return static

    def needs_flow(self, difference: Cells) -> NDArray[np.bool_]:
        """Whether the flow decides if any cell is static; [...] of differences [..., cells]."""
        undecided = (difference >= self.still_threshold) & (difference < self.difference_threshold)
        return np.asarray(undecided.any(axis=-1))

    def is_redundant(self, redundancy: float, difference: Cells) -> bool:
        """Whether a sample with this share of static cells [cells] becomes a pointer. Eq. 6."""
        if self.change_threshold is not None and difference.max() > self.change_threshold:
            return False
        return redundancy > self.redundancy_threshold


PAPER = TemporalSettings(reference="previous", still_threshold=0.0, change_threshold=None)
TEMPORAL_PROFILES = {
    "none": TemporalSettings(),
    "paper": PAPER,
    "default": TemporalSettings(still_samples=2),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A sample against its reference: flow_px and difference [cells], redundancy 0..1.

    flow_px is 0 where the sample needs no flow, see `TemporalSettings.needs_flow`.
    """

    flow_px: Cells
    difference: Cells
    redundancy: float


def compare(rgb: Rgb, reference: Rgb, geometry: Geometry, settings: TemporalSettings) -> Change:
    """Measure what changed between the pictures of two samples of one geometry.

    Frame by frame, the first against the reference's first; a cell changed as much as it did in
    the frame where it changed most.
    """
    pairs = list(zip(geometry.split(rgb), geometry.split(reference), strict=True))
    apart = [cell_difference(frame, before, geometry) for frame, before in pairs]
    difference: Cells = np.max(apart, axis=0)
    flow_px = np.zeros(geometry.cells, np.float32)
    if settings.needs_flow(difference):
        for (frame, before), its_difference in zip(pairs, apart, strict=True):
            moved = its_difference >= settings.still_threshold
            flow = cell_flow_px(frame, before, geometry)
            flow_px[moved] = np.maximum(flow_px, flow)[moved]
    static = settings.is_static(flow_px, difference)
    return Change(flow_px=flow_px, difference=difference, redundancy=float(np.mean(static)))


def cell_difference(rgb: Rgb, reference: Rgb, geometry: Geometry) -> Cells:
    """Root mean square of the RGB difference over each cell, 0..1; [cells].

    Source: eq. 5 is the L2 norm of the patch's difference; divided by the root of the number of
    its values, so that one threshold serves cells of any size.
    """
    apart = cv2.absdiff(rgb, reference)
    squares = cv2.multiply(apart, apart, dtype=cv2.CV_32F)
    means = cv2.transform(squares, np.full((1, 3), 1 / (3 * 255**2)))
    return np.sqrt(geometry.cell_means(means.astype(np.float32, copy=False)))


def cell_flow_px(rgb: Rgb, reference: Rgb, geometry: Geometry) -> Cells:
    """Mean length over each cell of the Farneback flow from reference to sample; [cells].

    Source: the paper's flow (pyr_scale 0.5, 3 levels); window, iterations and polynomial are
    OpenCV's usual ones. At one sample a second it is poorly determined, whatever the method; the
    difference is what carries.
    """
    before = cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY)
    after = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]  # cv2 5.0's stub wants an array where None is allowed
    return geometry.cell_means(np.hypot(flow[..., 0], flow[..., 1]))
