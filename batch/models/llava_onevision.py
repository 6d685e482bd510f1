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
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout, Slots
from batch.models.pictures import pixel_values, square_geometry
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
        self.require(vision_feature_select_strategy="full")
        self._pictures = _DEFAULTS | checkpoint.pictures("video")
        self.picture_id = self.config.video_token_id

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
        slots = Slots()
        slots.text(self.texts_around_only("video")[0])
        for sample in range(len(footage)):
            slots.cells(self.picture_id, sample, footage.geometry.cells)
        slots.text([self.picture_id])  # the newline
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        return [int(i) for i in self.texts_around_only("video", question)[1]]

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        cells = found[0, :-1]  # the newline is a slot of its own
        return cells.view(len(pictures), geometry.cells, -1)

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded = super().text_embeddings(token_ids)
        newline = self.model.model.image_newline.to(embedded)
        return torch.where((token_ids == self.picture_id)[:, None], newline, embedded)
