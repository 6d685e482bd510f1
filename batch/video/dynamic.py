"""Pictures whose size follows the aspect ratio of each video (Qwen-VL). Knows no models."""

import math
from dataclasses import dataclass

from batch.video.geometry import Geometry, Resample


@dataclass(frozen=True, kw_only=True)
class DynamicGeometry:
    """Rule that gives each video a geometry of whole cells near its own size and aspect ratio.

    A frame has between least_px and most_px pixels in all, where its aspect ratio allows.
    """

    cell_px: int
    frames: int
    least_px: int
    most_px: int
    resample: Resample = "bicubic"

    def for_video(self, height_px: int, width_px: int) -> Geometry:
        """The geometry of a video whose upright frames have this size.

        Source: "smart resize" of the Qwen-VL processors (transformers 5.23; a test compares).
        """
        cell = self.cell_px
        height = max(cell, round(height_px / cell) * cell)
        width = max(cell, round(width_px / cell) * cell)
        if height * width > self.most_px:
            ratio = math.sqrt(height_px * width_px / self.most_px)
            height = max(cell, math.floor(height_px / ratio / cell) * cell)
            width = max(cell, math.floor(width_px / ratio / cell) * cell)
        elif height * width < self.least_px:
            ratio = math.sqrt(self.least_px / (height_px * width_px))
            height = math.ceil(height_px * ratio / cell) * cell
            width = math.ceil(width_px * ratio / cell) * cell
        return Geometry(
            height_px=height,
            width_px=width,
            rows=height // cell,
            columns=width // cell,
            frames=self.frames,
            resample=self.resample,
        )


GeometryRule = Geometry | DynamicGeometry
"""What a model family says of pictures: one geometry, or how to find that of a video."""
