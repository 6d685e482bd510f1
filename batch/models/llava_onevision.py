"""LLaVA-OneVision (`llava_onevision`): a video is one block of cells, closed by the newline.

The patches of the vision tower (27 x 27 of 14 px in the first 378 px of a picture of 384 px) are
interpolated to half as many, rounded up, in each direction: 14 x 14 cells of 27 px. All samples
follow each other without separators; the newline embedding stands once, behind the last.
"""

import math
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
from batch.models.prompt import texts_around
from batch.video import Footage, Geometry

_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": 384, "width": 384},
    "crop_size": None,
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: LlavaOnevisionVideoProcessor of transformers 5.23."""


class LlavaOnevision(Family):
    """LLaVA-OneVision with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_onevision"
    limits: ClassVar[str] = "video only, no images beside it; vision towers without a class token"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        strategy = self.config.vision_feature_select_strategy
        if strategy != "full":
            raise ModelError(
                f"{checkpoint.name}: vision_feature_select_strategy is {strategy!r}, "
                "supported is 'full'"
            )
        self._pictures = _DEFAULTS | checkpoint.pictures("video")
        self._video_id: int = self.config.video_token_id

    @property
    def placeholder(self) -> str:
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self._video_id)
        return text

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        patches = vision.image_size // vision.patch_size
        return square_geometry(
            self.checkpoint.name,
            self._pictures,
            side_px=vision.image_size,
            covered_px=patches * vision.patch_size,
            cells_across=math.ceil(patches / 2),
        )

    def layout(self, footage: Footage) -> Layout:
        ids = self.conversation_ids([{"type": "video"}])
        slots = Slots()
        slots.text(texts_around(self.checkpoint.name, ids, self._video_id, 1)[0])
        for sample in range(len(footage)):
            slots.cells(self._video_id, sample, footage.geometry.cells)
        slots.text([self._video_id])  # the newline
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        ids = self.conversation_ids([{"type": "video"}, {"type": "text", "text": question}])
        return [int(i) for i in texts_around(self.checkpoint.name, ids, self._video_id, 1)[1]]

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        cells = found[0, :-1]  # the newline is a slot of its own
        return cells.view(len(pictures), geometry.cells, -1)

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        inner = self.model.model
        embedded: Tensor = inner.get_input_embeddings()(token_ids)
        newline = inner.image_newline.to(embedded)
        return torch.where((token_ids == self._video_id)[:, None], newline, embedded)

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder
