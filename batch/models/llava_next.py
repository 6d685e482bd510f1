"""LLaVA-1.6 (`llava_next`): a sample is the base image alone.

The processor always adds high-resolution tiles to the base image; for a video they would cost
up to five times the tokens. A sample is the base image (576 cells at 336 px) and then the
newline embedding, the layout of the single-tile branch of transformers' `pack_image_features`.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.image_processing_utils import get_size_dict
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.models.checkpoint import Checkpoint
from batch.models.many_images import ManyImages
from batch.models.pictures import pixel_values, square_geometry
from batch.video import Geometry

_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: LlavaNextImageProcessor of transformers 5.23."""


class LlavaNext(ManyImages):
    """LLaVA-1.6 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next"
    limits: ClassVar[str] = "the base image alone, without the high-resolution tiles"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._pictures = _DEFAULTS | checkpoint.pictures("image")

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        size = get_size_dict(self._pictures["size"], default_to_square=False)
        side = size.get("shortest_edge") or size.get("height")
        cells = vision.image_size // vision.patch_size
        return square_geometry(
            self.checkpoint.name,
            # The base image is stretched to a square, also where `size` is the shortest edge.
            {**self._pictures, "size": {"height": side, "width": side}},
            side_px=vision.image_size,
            covered_px=cells * vision.patch_size,
            cells_across=cells,
        )

    @property
    def behind_cells(self) -> list[int]:
        return [self.picture_id]  # the newline

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        inner = self.model.model
        pixels = pixel_values(pictures, self._pictures, self.model)
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features: Tensor = inner.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        return features

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded = super().text_embeddings(token_ids)
        newline = self.model.model.image_newline.to(embedded)
        return torch.where((token_ids == self.picture_id)[:, None], newline, embedded)
