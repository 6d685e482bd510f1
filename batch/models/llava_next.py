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
from transformers import PreTrainedModel
from transformers.image_processing_utils import get_size_dict
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout, Slots, pixel_values
from batch.models.pictures import square_geometry
from batch.models.prompt import before_pictures, split_before_first, texts_around
from batch.video import Footage, Geometry

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


class LlavaNext(Family):
    """LLaVA-1.6 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next"
    limits: ClassVar[str] = "the base image alone, without the high-resolution tiles"
    no_timestamps: ClassVar[str | None] = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        if self.config.vision_feature_select_strategy != "default":
            raise ModelError(
                f"{checkpoint.name}: vision_feature_select_strategy is "
                f"{self.config.vision_feature_select_strategy!r}, supported is 'default'"
            )
        self._pictures = _DEFAULTS | checkpoint.pictures("image")
        self._image_id: int = self.config.image_token_id

    @property
    def placeholder(self) -> str:
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self._image_id)
        return text

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

    def layout(self, footage: Footage) -> Layout:
        text = self.conversation_text([{"type": "image"}] * len(footage))
        ids = self.token_ids(before_pictures(text, self.placeholder, self.times(footage)))
        first, *others, _ = texts_around(self.checkpoint.name, ids, self._image_id, len(footage))
        (plain, _) = self._texts_around_one([{"type": "image"}])
        before, of_first = split_before_first(first, plain)
        slots = Slots()
        slots.text(before)
        for sample, text_before in enumerate([of_first, *others]):
            slots.text(text_before, sample)
            slots.cells(self._image_id, sample, footage.geometry.cells)
            slots.text([self._image_id], sample)  # the newline
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        (_, asked) = self._texts_around_one([{"type": "image"}, {"type": "text", "text": question}])
        return [int(i) for i in asked]

    def _texts_around_one(self, content: list[dict[str, Any]]) -> list[NDArray[np.int64]]:
        """The text before and behind the only picture of a conversation."""
        ids = self.conversation_ids(content)
        return texts_around(self.checkpoint.name, ids, self._image_id, 1)

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        inner = self.model.model
        pixels = pixel_values(pictures, self._pictures, self.model)
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features: Tensor = inner.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        return features

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        inner = self.model.model
        embedded: Tensor = inner.get_input_embeddings()(token_ids)
        newline = inner.image_newline.to(embedded)
        return torch.where((token_ids == self._image_id)[:, None], newline, embedded)

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder
