"""InternVL 3 and 3.5 in the layout of transformers (`internvl`): frames are numbered in the text.

Before each sample stands "Frame1: ", "Frame2: ", ..., and its cells are framed by two tokens of
their own, as the processor writes a video. The vision tower's patches (32 x 32 of 14 px at
448 px) are merged two by two into 256 cells. A video's samples are never cut into tiles.
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
from batch.models.prompt import split_before_first, texts_around
from batch.video import Footage, Geometry

_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": 384, "width": 384},
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: InternVLVideoProcessor of transformers 5.23."""


class InternVL(Family):
    """InternVL with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "internvl"
    limits: ClassVar[str] = (
        "checkpoints in the layout of transformers (named -hf); video only, no images beside it"
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
        self._pictures = _DEFAULTS | checkpoint.pictures("video")
        self._image_id: int = self.config.image_token_id

    @property
    def placeholder(self) -> str:
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self._image_id)
        return text

    @cached_property
    def geometry(self) -> Geometry:
        vision, name = self.config.vision_config, self.checkpoint.name
        (side_px, other_px), (patch_px, _) = vision.image_size, vision.patch_size
        merged = round(1 / self.config.downsample_ratio)
        cells, rest_px = divmod(side_px, merged * patch_px)
        if side_px != other_px or rest_px:
            raise ModelError(
                f"{name}: pictures of {side_px}x{other_px} px do not divide into a square of "
                f"cells of {merged * patch_px} px"
            )
        return square_geometry(
            name, self._pictures, side_px=side_px, covered_px=side_px, cells_across=cells
        )

    def layout(self, footage: Footage) -> Layout:
        content = [{"type": "video"}]
        first, *between, end = self._texts(content, self.times(footage))
        plain = self.token_ids(self._around_video(content)[0])
        before, of_first = split_before_first(first, plain)
        slots = Slots()
        slots.text(before)
        slots.text(of_first, 0)
        for sample, behind in enumerate([*between, end[:1]]):
            slots.cells(self._image_id, sample, footage.geometry.cells)
            slots.text(behind[:1], sample)  # closes the picture
            slots.text(behind[1:], sample + 1)
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        texts = self._texts([{"type": "video"}, {"type": "text", "text": question}], [""])
        return [int(i) for i in texts[-1][1:]]

    def _texts(self, content: list[dict[str, Any]], times: list[str]) -> list[NDArray[np.int64]]:
        """The text around a video's samples; each behind a sample begins with what closes it."""
        tokenizer, name = self.checkpoint.tokenizer, self.checkpoint.name
        before, behind = self._around_video(content)
        picture = f"{tokenizer.start_image_token}{self.placeholder}{tokenizer.end_image_token}"
        frames = [f"Frame{number}: {time}{picture}" for number, time in enumerate(times, 1)]
        ids = self.token_ids(before + "\n".join(frames) + behind)
        return texts_around(name, ids, self._image_id, len(times))

    def _around_video(self, content: list[dict[str, Any]]) -> tuple[str, str]:
        """What the chat template puts before and behind a video."""
        video = self.checkpoint.tokenizer.video_token
        before, found, behind = self.conversation_text(content).partition(video)
        if not found:
            raise ModelError(f"{self.checkpoint.name}: the chat template knows no video")
        return before, behind

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_image_features(pixels).pooler_output
        return found

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.model.get_input_embeddings()(token_ids)
        return embedded

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder
