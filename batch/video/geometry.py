"""The picture a model sees and its grid of cells. Knows PIL's resize; knows no models."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from batch.video.settings import Settings

_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Geometry(Settings):
    """How a frame becomes a model's picture, and which pixels each cell stands for.

    Cell (r, c) covers pixel rows [r * height_px / rows, (r + 1) * height_px / rows) and columns
    likewise; cells are numbered row by row. `fit` "stretch" does not keep the aspect ratio
    (LLaVA-1.6's base image).
    """

    height_px: int
    width_px: int
    rows: int
    columns: int
    fit: Literal["stretch"] = "stretch"
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"

    def __post_init__(self) -> None:
        sizes = (self.height_px, self.width_px, self.rows, self.columns)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"geometry: got sizes {sizes}, expected positive integers")
        if self.height_px % self.rows or self.width_px % self.columns:
            raise ValueError(
                f"geometry: {self.height_px}x{self.width_px} px do not divide into "
                f"{self.rows}x{self.columns} cells"
            )
        if self.fit != "stretch":
            raise ValueError(f"geometry: got fit {self.fit!r}, supported is 'stretch'")
        if self.resample not in _RESAMPLE:
            raise ValueError(
                f"geometry: got resample {self.resample!r}, supported are {sorted(_RESAMPLE)}"
            )

    @property
    def cells(self) -> int:
        """Cells in one sample."""
        return self.rows * self.columns

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize uint8 [h, w, 3] to uint8 [height_px, width_px, 3].

        Source: bit-equal to the resize of transformers' PIL image processors (a test compares).
        """
        resized = Image.fromarray(rgb).resize(
            (self.width_px, self.height_px), _RESAMPLE[self.resample]
        )
        return np.asarray(resized)

    def cell_means(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean over each cell of float32 [height_px, width_px]; returns [cells]."""
        split = pixels.reshape(
            self.rows, self.height_px // self.rows, self.columns, self.width_px // self.columns
        )
        means: NDArray[np.float32] = split.mean(axis=(1, 3), dtype=np.float32)
        return means.reshape(self.cells)
