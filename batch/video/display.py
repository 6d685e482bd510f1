"""A decoded frame as a player shows it. Knows one frame at a time; knows no models.

Cropped as the container says, its pixels made square, turned and mirrored, alpha over black. Not
done, as it is not by what models are usually fed with (decord, OpenCV, torchcodec): tone mapping
of HDR, and deinterlacing; `caveats` says so.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from batch.video.open import describe_streams

_MOST_ASPECT = 8
"""Of a pixel; what says more is a damaged header."""
_HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics. Source: ITU-T H.273, table 3."""


@dataclass(frozen=True, kw_only=True)
class Display:
    """How frames of a stream are to be shown.

    - crop_px: taken off left, right, top, bottom; of the frame as coded.
    - pixel_aspect: width of a pixel by its height.
    """

    crop_px: tuple[int, int, int, int]
    pixel_aspect: Fraction

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> "Display":
        text = describe_streams(container).get(stream.index, "")
        found = re.search(r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)", text)
        left, right, top, bottom = map(int, found.groups()) if found else (0, 0, 0, 0)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        is_sound = 1 <= max(aspect, 1 / aspect) <= _MOST_ASPECT if aspect > 0 else False
        return cls(
            crop_px=(left, right, top, bottom), pixel_aspect=aspect if is_sound else Fraction(1)
        )

    def upright_px(self, frame: VideoFrame) -> tuple[int, int]:
        """Height and width of `picture`."""
        height_px, width_px = self._square_px(frame)
        return (width_px, height_px) if _matrix(frame).is_transposed else (height_px, width_px)

    def picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as it is shown; uint8 [height, width, 3]."""
        rows, columns = self._kept(frame)
        rgb = _over_black(frame)[rows, columns]
        height_px, width_px = self._square_px(frame)
        if rgb.shape[:2] != (height_px, width_px):
            image = Image.fromarray(np.ascontiguousarray(rgb))
            rgb = np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC))
        return np.ascontiguousarray(_matrix(frame).apply(rgb))

    def _kept(self, frame: VideoFrame) -> tuple[slice, slice]:
        """Rows and columns that are shown; all, if next to none would be left."""
        left, right, top, bottom = self.crop_px
        rows, columns = slice(top, frame.height - bottom), slice(left, frame.width - right)
        if rows.start < rows.stop and columns.start < columns.stop:
            return rows, columns
        return slice(0, frame.height), slice(0, frame.width)

    def _square_px(self, frame: VideoFrame) -> tuple[int, int]:
        """Height and width with square pixels: the side that is too short is made longer."""
        rows, columns = self._kept(frame)
        height_px, width_px = rows.stop - rows.start, columns.stop - columns.start
        if self.pixel_aspect > 1:
            return height_px, round(width_px * self.pixel_aspect)
        return round(height_px / self.pixel_aspect), width_px


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """A display matrix, as far as it moves whole pixels: the nearest of the eight that do."""

    is_transposed: bool
    flips_rows: bool
    flips_columns: bool

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shown = rgb.transpose(1, 0, 2) if self.is_transposed else rgb
        return shown[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


def _matrix(frame: VideoFrame) -> _Matrix:
    """Source: a point (x, y) is shown at (a x + c y, b x + d y); ISO/IEC 14496-12, 6.2.2."""
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]  # av 18
    except KeyError:
        return _Matrix(is_transposed=False, flips_rows=False, flips_columns=False)
    a, b, _, c, d = struct.unpack("=5i", data[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Matrix(is_transposed=True, flips_rows=b < 0, flips_columns=c < 0)
    return _Matrix(is_transposed=False, flips_rows=d < 0, flips_columns=a < 0)


def _over_black(frame: VideoFrame) -> NDArray[np.uint8]:
    """RGB as coded, [height, width, 3]; what is transparent is black."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame.to_ndarray(format="rgb24", threads=1).astype(np.uint8, copy=False)
    rgba = frame.to_ndarray(format="rgba", threads=1).astype(np.uint16)
    return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def caveats(frame: VideoFrame) -> Iterator[str]:
    """What of a frame is not as a player shows it."""
    if frame.interlaced_frame:
        yield "interlaced, its pictures hold both fields"
    if frame.color_trc in _HDR:
        yield f"its {_HDR[frame.color_trc]} colours are not tone-mapped"
