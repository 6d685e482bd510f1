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

from batch.errors import ModelError
from batch.models.family import Layout
from batch.models.pictures import CLIP_DEFAULTS, SquareFamily, pixel_values
from batch.video import Footage, Geometry


class InternVL(SquareFamily):
    """InternVL with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "internvl"
    defaults: ClassVar[dict[str, Any]] = CLIP_DEFAULTS | {
        "do_center_crop": False,
        "size": {"height": 384, "width": 384},
    }
    """Source: InternVLVideoProcessor of transformers 5.23."""
    required: ClassVar[dict[str, object]] = {"vision_feature_select_strategy": "default"}
    picture_token: ClassVar[str] = "image_token_id"
    no_timestamps: ClassVar[str | None] = None

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        (side_px, other_px), (patch_px, _) = vision.image_size, vision.patch_size
        merged = round(1 / self.config.downsample_ratio)
        cells, rest_px = divmod(side_px, merged * patch_px)
        if side_px != other_px or rest_px:
            raise ModelError(
                f"{self.checkpoint.name}: pictures of {side_px}x{other_px} px do not divide "
                f"into a square of cells of {merged * patch_px} px"
            )
        return self.square_geometry(side_px=side_px, covered_px=side_px, cells_across=cells)

    def layout(self, footage: Footage) -> Layout:
        content = [{"type": "video"}]
        plain = self.token_ids(self._around_video(content)[0])
        texts = self._texts(content, self.times(footage))
        return self.lay_out_frames(texts, plain, footage, closing=1)

    def question_ids(self, question: str, *later: str) -> list[int]:
        texts = self._texts([{"type": "video"}, {"type": "text", "text": question}], [""], *later)
        return [int(i) for i in texts[-1][1:]]

    def _texts(
        self, content: list[dict[str, Any]], times: list[str], *later: str
    ) -> list[NDArray[np.int64]]:
        """The text around a video's samples; each behind a sample begins with what closes it."""
        tokenizer = self.checkpoint.tokenizer
        before, behind = self._around_video(content, *later)
        picture = f"{tokenizer.start_image_token}{self.placeholder}{tokenizer.end_image_token}"
        frames = [f"Frame{number}: {time}{picture}" for number, time in enumerate(times, 1)]
        return self.texts_around(self.token_ids(before + "\n".join(frames) + behind), len(times))

    def _around_video(self, content: list[dict[str, Any]], *later: str) -> tuple[str, str]:
        video = self.checkpoint.tokenizer.video_token
        before, found, behind = self.conversation_text(content, *later).partition(video)
        if not found:
            raise ModelError(f"{self.checkpoint.name}: the chat template knows no video")
        return before, behind

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        found: Tensor = self.model.model.get_image_features(pixels).pooler_output
        return found
