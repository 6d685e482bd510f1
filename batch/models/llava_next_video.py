"""LLaVA-NeXT-Video (`llava_next_video`): a video is one block of cells without separators.

Two by two patches of the vision tower are pooled into a cell (144 a sample at 336 px). Behind the
last cell stands what the chat template puts behind a video.
"""

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from batch.errors import ModelError
from batch.models.pictures import SquareFamily, pixel_values
from batch.video import Geometry

_POOLED = 2
"""Patches in a row of a cell; the processor counts on it whatever spatial_pool_stride says."""


class LlavaNextVideo(SquareFamily):
    """LLaVA-NeXT-Video with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next_video"
    required: ClassVar[dict[str, object]] = {
        "vision_feature_select_strategy": "default",
        "spatial_pool_stride": _POOLED,
    }

    @cached_property
    def geometry(self) -> Geometry:
        side_px = self.config.vision_config.image_size
        cell_px = _POOLED * self.config.vision_config.patch_size
        cells, rest_px = divmod(side_px, cell_px)
        if rest_px:
            raise ModelError(
                f"{self.checkpoint.name}: pictures of {side_px} px do not divide into "
                f"cells of {cell_px} px"
            )
        return self.square_geometry(side_px=side_px, covered_px=side_px, cells_across=cells)

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        return found.view(len(pictures), geometry.cells, -1)
