"""LLaVA-1.6 (`llava_next`): a sample is the base image alone.

The processor always adds high-resolution tiles to the base image; for a video they would cost
up to five times the tokens. A sample is the base image (576 cells at 336 px) and then the
newline embedding, the layout of the single-tile branch of transformers' `pack_image_features`.
"""

from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.image_processing_utils import get_size_dict

from batch.models.many_images import ManyImages
from batch.models.pictures import pixel_values
from batch.video import Geometry


class LlavaNext(ManyImages):
    """LLaVA-1.6 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next"
    has_newline: ClassVar[bool] = True

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        size = get_size_dict(self._pictures["size"], default_to_square=False)
        side = size.get("shortest_edge") or size.get("height")
        cells = vision.image_size // vision.patch_size
        return self.square_geometry(
            # The base image is stretched to a square, also where `size` is the shortest edge.
            self._pictures | {"size": {"height": side, "width": side}},
            side_px=vision.image_size,
            covered_px=cells * vision.patch_size,
            cells_across=cells,
        )

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        inner = self.model.model
        pixels = pixel_values(pictures, self._pictures, self.model)
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features: Tensor = inner.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        return features
