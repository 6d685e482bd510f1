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
from transformers import PreTrainedModel
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
    "do_pad": False,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: CLIPImageProcessor and LlavaImageProcessor of transformers 5.23."""


class Llava(Family):
    """LLaVA-1.5 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava"
    limits: ClassVar[str] = (
        "a video is many images, which the model was not trained for; no Pixtral or SigLIP tower "
        "(vision_feature_select_strategy 'full'), no padding to a square"
    )
    no_timestamps: ClassVar[str | None] = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        strategy = self.config.vision_feature_select_strategy
        if strategy != "default":
            raise ModelError(
                f"{checkpoint.name}: vision_feature_select_strategy is {strategy!r}, "
                "supported is 'default'"
            )
        self._pictures = _DEFAULTS | checkpoint.pictures("image")
        if self._pictures["do_pad"]:
            raise ModelError(f"{checkpoint.name}: do_pad is true, supported is false")
        self._image_id: int = self.config.image_token_id

    @property
    def placeholder(self) -> str:
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self._image_id)
        return text

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
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        (_, asked) = self._texts_around_one([{"type": "image"}, {"type": "text", "text": question}])
        return [int(i) for i in asked]

    def _texts_around_one(self, content: list[dict[str, Any]]) -> list[NDArray[np.int64]]:
        """The text before and behind the only picture of a conversation."""
        ids = self.conversation_ids(content)
        return texts_around(self.checkpoint.name, ids, self._image_id, 1)

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        return torch.stack(self.model.model.get_image_features(pixels).pooler_output)

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.model.get_input_embeddings()(token_ids)
        return embedded

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder
