"""The picture a model sees and its grid of cells. Knows PIL's resize; knows no models."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from batch.video.settings import Settings

Resample = Literal["bicubic", "bilinear", "lanczos"]

_RESAMPLE = {name: Image.Resampling[name.upper()] for name in get_args(Resample)}


@dataclass(frozen=True, kw_only=True)
class Geometry(Settings):
    """How frames become a model's picture, and which pixels each cell stands for.

    A sample is `frames` frames of height_px x width_px, one below the other in its picture of
    [frames * height_px, width_px, 3]. Cell (r, c) covers the same pixels of each frame: of the
    covered part (from the top left; None: all) rows [r * height / rows, (r + 1) * height / rows)
    and columns likewise; cells are numbered row by row.

    `fit` "stretch" does not keep the aspect ratio (LLaVA-1.6's base image), even if the frame is
    first brought to a longer side of `longest_px` (SmolVLM); "crop" brings the shorter side to
    `shortest_px` and cuts the middle out (CLIP).
    """

    height_px: int
    width_px: int
    rows: int
    columns: int
    frames: int = 1
    covered_height_px: int | None = None
    covered_width_px: int | None = None
    fit: Literal["stretch", "crop"] = "stretch"
    shortest_px: int | None = None
    longest_px: int | None = None
    resample: Resample = "bicubic"

    def __post_init__(self) -> None:
        sizes = [self.height_px, self.width_px, self.rows, self.columns, self.frames, *self.covered]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"geometry: got sizes {sizes}, expected positive integers")
        height_px, width_px = self.covered
        if height_px % self.rows or width_px % self.columns:
            raise ValueError(
                f"geometry: {height_px}x{width_px} px do not divide into "
                f"{self.rows}x{self.columns} cells"
            )
        if height_px > self.height_px or width_px > self.width_px:
            raise ValueError(
                f"geometry: cells cover {height_px}x{width_px} px of "
                f"{self.height_px}x{self.width_px}"
            )
        if self.fit not in ("stretch", "crop"):
            raise ValueError(f"geometry: got fit {self.fit!r}, supported are stretch, crop")
        largest = max(self.height_px, self.width_px)
        if (self.fit == "crop") != (self.shortest_px is not None) or (
            self.shortest_px is not None and self.shortest_px < largest
        ):
            raise ValueError(
                f"geometry: got shortest_px {self.shortest_px} with fit {self.fit!r}; "
                f"only crop has one, of at least {largest}"
            )
        if self.longest_px is not None and (self.fit != "stretch" or self.longest_px < 1):
            raise ValueError(
                f"geometry: got longest_px {self.longest_px} with fit {self.fit!r}; "
                "only stretch has one, of at least 1"
            )
        if self.resample not in _RESAMPLE:
            raise ValueError(
                f"geometry: got resample {self.resample!r}, supported are {sorted(_RESAMPLE)}"
            )

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of the part of each frame that its cells stand for, px."""
        return (
            self.height_px if self.covered_height_px is None else self.covered_height_px,
            self.width_px if self.covered_width_px is None else self.covered_width_px,
        )

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        return (self.frames * self.height_px, self.width_px, 3)

    def for_video(self, height_px: int, width_px: int, frames: int) -> "Geometry":
        """The same for every video; see DynamicGeometry."""
        return self

    def may_have(self, rows: int, columns: int) -> bool:
        """Whether samples of some video have so many rows and columns of cells."""
        return (rows, columns) == (self.rows, self.columns)

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring one frame, uint8 [h, w, 3], to uint8 [height_px, width_px, 3].

        Source: bit-equal to the resize of transformers' PIL image processors (a test compares).
        """
        image, resample = Image.fromarray(rgb), _RESAMPLE[self.resample]
        if self.longest_px is not None:
            image = image.resize(_with_longer_side(image.size, self.longest_px), resample)
        if self.shortest_px is None:
            return np.asarray(image.resize((self.width_px, self.height_px), resample))
        shorter = min(image.size)
        width, height = (self.shortest_px * side // shorter for side in image.size)
        resized = np.asarray(image.resize((width, height), resample))
        top, left = (height - self.height_px) // 2, (width - self.width_px) // 2
        return resized[top : top + self.height_px, left : left + self.width_px]

    def split(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frames of a sample's picture; a view [frames, height_px, width_px, 3]."""
        return picture.reshape(self.frames, self.height_px, self.width_px, 3)

    def with_cells(
        self, picture: NDArray[np.uint8], other: NDArray[np.uint8], cells: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """A sample's picture with some cells, bool [cells], of another's, in all frames."""
        height_px, width_px = self.covered
        found = picture.copy()
        into, new = (self.split(one)[:, :height_px, :width_px] for one in (found, other))
        each = cells.reshape(self.rows, self.columns)
        pixels = each.repeat(height_px // self.rows, 0).repeat(width_px // self.columns, 1)
        np.copyto(into, new, where=pixels[:, :, None])
        return found

    def cell_means(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean over each cell of one frame, float32 [height_px, width_px]; returns [cells]."""
        height_px, width_px = self.covered
        height, width = height_px // self.rows, width_px // self.columns
        # One axis after the other: numpy takes several times as long for both at once.
        strips = pixels[:height_px, :width_px].reshape(self.rows, height, width_px).sum(axis=1)
        sums: NDArray[np.float32] = strips.reshape(self.rows, self.columns, width).sum(axis=2)
        return sums.reshape(self.cells) / np.float32(height * width)


def _with_longer_side(size: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Width and height of about the same aspect ratio; the shorter side is even.

    Source: SmolVLMVideoProcessor of transformers 5.23; a test compares.
    """
    width, height = size
    ratio = width / height
    shorter = int(longest_px / ratio if width >= height else longest_px * ratio)
    even = max(1, shorter + shorter % 2)
    return (longest_px, even) if width >= height else (even, longest_px)
