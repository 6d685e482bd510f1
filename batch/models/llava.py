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
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.many_images import ManyImages
from batch.models.pictures import pixel_values, square_geometry
from batch.video import Geometry

_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: CLIPImageProcessor and LlavaImageProcessor of transformers 5.23."""


class Llava(ManyImages):
    """LLaVA-1.5 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava"
    limits: ClassVar[str] = (
        "a video is many images, which the model was not trained for; no Pixtral or SigLIP tower "
        "(vision_feature_select_strategy 'full'), no padding to a square"
    )

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._pictures = _DEFAULTS | checkpoint.pictures("image")
        if self._pictures["do_pad"]:
            raise ModelError(f"{checkpoint.name}: do_pad is true, supported is false")

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        cells = vision.image_size // vision.patch_size
        return square_geometry(
            self.checkpoint.name,
            self._pictures,
            side_px=vision.image_size,
            covered_px=cells * vision.patch_size,
            cells_across=cells,
        )

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        return torch.stack(self.model.model.get_image_features(pixels).pooler_output)
