"""LLaVA-NeXT-Video (`llava_next_video`): a video is one block of cells without separators.

Two by two patches of the vision tower are pooled into a cell (144 a sample at 336 px). Behind the
last cell stands what the chat template puts behind a video.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
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
        expected = {"vision_feature_select_strategy": "default", "spatial_pool_stride": _POOLED}
        for name, value in expected.items():
            got = getattr(self.config, name)
            if got != value:
                raise ModelError(f"{checkpoint.name}: {name} is {got!r}, supported is {value!r}")
        self._pictures = _DEFAULTS | checkpoint.pictures("video")
        self._video_id: int = self.config.video_token_id

    @property
    def placeholder(self) -> str:
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self._video_id)
        return text

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
        ids = self.conversation_ids([{"type": "video"}])
        slots = Slots()
        slots.text(texts_around(self.checkpoint.name, ids, self._video_id, 1)[0])
        for sample in range(len(footage)):
            slots.cells(self._video_id, sample, footage.geometry.cells)
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        ids = self.conversation_ids([{"type": "video"}, {"type": "text", "text": question}])
        return [int(i) for i in texts_around(self.checkpoint.name, ids, self._video_id, 1)[1]]

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_video_features(pixels[None]).pooler_output
        return found.view(len(pictures), geometry.cells, -1)

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.model.get_input_embeddings()(token_ids)
        return embedded

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder
