"""LLaVA-1.5 (`llava`): every sample is an image of its own.

The family knows no video, so a video enters as the multi-image conversation of its chat template:
an image token for each sample, and what the template puts between them. A sample has a cell for
each patch of the vision tower (576 at 336 px); CLIP's class token is left out, as in training.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.many_images import ManyImages
from batch.models.pictures import CLIP_DEFAULTS, pixel_values
from batch.video import Geometry


class Llava(ManyImages):
    """LLaVA-1.5 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava"
    defaults: ClassVar[dict[str, Any]] = CLIP_DEFAULTS | {"do_pad": False}
    """Source: LlavaImageProcessor of transformers 5.23."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        if self._pictures["do_pad"]:
            raise ModelError(f"{checkpoint.name}: do_pad is true, supported is false")

    @cached_property
    def geometry(self) -> Geometry:
        side_px, patch_px = (
            self.config.vision_config.image_size,
            self.config.vision_config.patch_size,
        )
        cells = side_px // patch_px
        return self.square_geometry(
            side_px=side_px, covered_px=cells * patch_px, cells_across=cells
        )

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        return torch.stack(self.model.model.get_image_features(pixels).pooler_output)
