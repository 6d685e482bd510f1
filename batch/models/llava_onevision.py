"""LLaVA-OneVision (`llava_onevision`): a video is one block of cells, closed by the newline.

The patches of the vision tower (27 x 27 of 14 px in the first 378 px of a picture of 384 px) are
interpolated to half as many, rounded up, in each direction: 14 x 14 cells of 27 px. All samples
follow each other without separators; the newline embedding stands once, behind the last.
"""

import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from batch.models.pictures import CLIP_DEFAULTS, SquareFamily, pixel_values
from batch.video import Geometry


class LlavaOnevision(SquareFamily):
    """LLaVA-OneVision with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_onevision"
    defaults: ClassVar[dict[str, Any]] = CLIP_DEFAULTS | {
        "do_center_crop": False,
        "size": {"height": 384, "width": 384},
        "crop_size": None,
    }
    """Source: LlavaOnevisionVideoProcessor of transformers 5.23."""
    required: ClassVar[dict[str, object]] = {"vision_feature_select_strategy": "full"}
    has_newline: ClassVar[bool] = True

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        patches = vision.image_size // vision.patch_size
        return self.square_geometry(
            side_px=vision.image_size,
            covered_px=patches * vision.patch_size,
            cells_across=math.ceil(patches / 2),
        )

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        cells = found[0, :-1]  # the newline is a slot of its own
        return cells.view(len(pictures), geometry.cells, -1)
