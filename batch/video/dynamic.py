"""Pictures whose size follows each video (Qwen-VL). Knows no models."""

import math
from dataclasses import dataclass
from typing import Literal

from batch.errors import VideoError
from batch.video.geometry import Geometry, Resample
from batch.video.probe import VideoInfo
from batch.video.samples import Sampling

MOST_ELONGATED = 200
"""Largest aspect ratio. Source: the Qwen-VL processors (transformers 5.23) refuse more."""


@dataclass(frozen=True, kw_only=True)
class DynamicGeometry:
    """Rule that gives each video a geometry of whole cells near its own size and aspect ratio.

    least_px and most_px bound the pixels of a frame, or (`bounds` "video") of all frames of a
    video together, where its aspect ratio allows; a longer video then has smaller frames.
    """

    cell_px: int
    frames: int
    least_px: int
    most_px: int
    bounds: Literal["frame", "video"] = "frame"
    resample: Resample = "bicubic"

    def __post_init__(self) -> None:
        if not 0 < self.least_px <= self.most_px:
            raise ValueError(
                f"geometry: got {self.least_px} to {self.most_px} pixels, "
                "expected positive numbers, the smaller one first"
            )
        self._cells(1, 1)  # refuses cell_px, frames and resample as Geometry does

    def for_video(self, height_px: int, width_px: int, frames: int) -> Geometry:
        """The geometry of a video of so many sampled frames that have this size when upright.

        Raises:
            ValueError: one side is more than `MOST_ELONGATED` times the other.

        Source: "smart resize" of the video processors of Qwen2-VL (a frame) and Qwen3-VL (a
        video), transformers 5.23; a test compares.
        """
        if max(height_px, width_px) > MOST_ELONGATED * min(height_px, width_px):
            raise ValueError(
                f"frames of {height_px}x{width_px} px: one side may be at most "
                f"{MOST_ELONGATED} times the other"
            )
        cell = self.cell_px
        counted = merged = 1
        if self.bounds == "video":
            scale = max(1.0, cell / min(height_px, width_px))  # a cell on the shorter side at least
            height_px, width_px = int(height_px * scale), int(width_px * scale)
            counted = max(frames, self.frames)
            merged = round(counted / self.frames) * self.frames
        sides = (height_px, width_px)
        rows, columns = (round(side / cell) for side in sides)
        pixels = merged * rows * columns * cell**2
        if pixels > self.most_px:
            shrink = math.sqrt(counted * height_px * width_px / self.most_px)
            rows, columns = (max(1, math.floor(side / shrink / cell)) for side in sides)
        elif pixels < self.least_px:
            grow = math.sqrt(self.least_px / (counted * height_px * width_px))
            rows, columns = (math.ceil(side * grow / cell) for side in sides)
        return self._cells(rows, columns)

    def may_have(self, rows: int, columns: int) -> bool:
        """Whether samples of some video may have so many rows and columns of cells.

        True for all that `for_video` gives: whole cells may pass `most_px` by a row and a column,
        and neither side is longer than that of the most elongated frame.
        """
        area, side = self.most_px / self.cell_px**2, math.sqrt(MOST_ELONGATED * self.most_px)
        most = area + 2 * side / self.cell_px + 1
        return rows > 0 and columns > 0 and rows * columns <= most

    def _cells(self, rows: int, columns: int) -> Geometry:
        return Geometry(
            height_px=rows * self.cell_px,
            width_px=columns * self.cell_px,
            rows=rows,
            columns=columns,
            frames=self.frames,
            resample=self.resample,
        )


GeometryRule = Geometry | DynamicGeometry
"""What a model family says of pictures: one geometry, or how to find that of a video."""


def geometry_for(rule: GeometryRule, video: VideoInfo, sampling: Sampling) -> Geometry:
    """The geometry in which a video's samples are taken; a VideoError if there is none."""
    frames = sampling.frames(video.span_s, rule.frames)
    try:
        return rule.for_video(*video.upright_px, frames)
    except ValueError as error:
        raise VideoError(f"{video.path}: {error}") from error
