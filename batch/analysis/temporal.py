"""What changed in a sample against an earlier one. Knows pictures and cells; knows no video."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.video.geometry import Geometry
from batch.video.settings import Settings

Rgb = NDArray[np.uint8]
Cells = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TemporalSettings(Settings):
    """When a cell is static, and when a sample is redundant. Differences are 0..1.

    - reference: "kept" compares with the last kept sample, "previous" with the previous one (the
      paper; a slow drift is then never noticed).
    - still_threshold: below this difference nothing but noise changed: the flow is taken as 0
      without computing it. 0 computes it everywhere.
    - flow_threshold_px, difference_threshold: a cell below both is static.
    - redundancy_threshold: theta_R; a sample with a larger share of static cells is redundant.
    - still_samples: of a still stretch, its first sample included, so many samples are kept before
      the rest become pointers.
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

    reference: Literal["kept", "previous"] = "kept"
    still_threshold: float = 0.035
    flow_threshold_px: float = 0.5
    difference_threshold: float = 0.04
    redundancy_threshold: float = 0.9
    still_samples: int = 1
    change_threshold: float | None = 0.04

    def __post_init__(self) -> None:
        if self.reference not in ("kept", "previous"):
            raise ValueError(f"reference: got {self.reference!r}, supported are kept, previous")
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

    def is_redundant(self, redundancy: float, difference: Cells) -> bool:
        """Whether a sample with this share of static cells [cells] becomes a pointer. Eq. 6."""
        if self.change_threshold is not None and difference.max() > self.change_threshold:
            return False
        return redundancy > self.redundancy_threshold


PAPER = TemporalSettings(reference="previous", still_threshold=0.0, change_threshold=None)
TEMPORAL_PROFILES = {"none": TemporalSettings(), "paper": PAPER, "default": TemporalSettings()}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A sample against its reference: flow_px and difference [cells], redundancy 0..1."""

    flow_px: Cells
    difference: Cells
    redundancy: float


def compare(rgb: Rgb, reference: Rgb, geometry: Geometry, settings: TemporalSettings) -> Change:
    """Measure what changed between two samples of one geometry."""
    difference = cell_difference(rgb, reference, geometry)
    moved = difference >= settings.still_threshold
    flow_px = np.zeros(geometry.cells, np.float32)
    if moved.any():
        flow_px[moved] = cell_flow_px(rgb, reference, geometry)[moved]
    static = settings.is_static(flow_px, difference)
    return Change(flow_px=flow_px, difference=difference, redundancy=float(np.mean(static)))


def cell_difference(rgb: Rgb, reference: Rgb, geometry: Geometry) -> Cells:
    """Root mean square of the RGB difference over each cell, 0..1; [cells].

    Source: eq. 5 is the L2 norm of the patch's difference; divided by the root of the number of
    its values, so that one threshold serves cells of any size.
    """
    apart = cv2.absdiff(rgb, reference).astype(np.float32) / 255
    squares: NDArray[np.float32] = np.einsum("hwc,hwc->hw", apart, apart) / 3
    return np.sqrt(geometry.cell_means(squares))


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
