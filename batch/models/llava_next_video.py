"""LLaVA-NeXT-Video (`llava_next_video`): a video is one block of cells without separators.

Two by two patches of the vision tower are pooled into a cell (144 a sample at 336 px). Behind the
last cell stands what the chat template puts behind a video.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout, Slots
from batch.models.pictures import pixel_values, square_geometry
from batch.video import Footage, Geometry

_POOLED = 2
"""Patches in a row of a cell; the processor counts on it whatever spatial_pool_stride says."""

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
"""Source: LlavaNextVideoVideoProcessor of transformers 5.23."""


class LlavaNextVideo(Family):
    """LLaVA-NeXT-Video with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next_video"
    limits: ClassVar[str] = "video only, no images beside it; pooling of 2x2 patches"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.require(vision_feature_select_strategy="default", spatial_pool_stride=_POOLED)
        self._pictures = _DEFAULTS | checkpoint.pictures("video")
        self.picture_id = self.config.video_token_id

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        cell_px = _POOLED * vision.patch_size
        cells, rest_px = divmod(vision.image_size, cell_px)
        if rest_px:
            raise ModelError(
                f"{self.checkpoint.name}: pictures of {vision.image_size} px do not divide into "
                f"cells of {cell_px} px"
            )
        return square_geometry(
            self.checkpoint.name,
            self._pictures,
            side_px=vision.image_size,
            covered_px=vision.image_size,
            cells_across=cells,
        )

    def layout(self, footage: Footage) -> Layout:
        slots = Slots()
        slots.text(self.texts_around_only("video")[0])
        for sample in range(len(footage)):
            slots.cells(self.picture_id, sample, footage.geometry.cells)
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        return [int(i) for i in self.texts_around_only("video", question)[1]]

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        return found.view(len(pictures), geometry.cells, -1)
