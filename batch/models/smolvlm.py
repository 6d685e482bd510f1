"""SmolVLM 2 (`smolvlm`): the prompt tells each frame's time, their number and the video's length.

A sentence with the number of samples (in words) and the length of the video comes first, then
each sample behind "Frame from MM:SS:", framed by two tokens, as the processor writes a video; its
template for videos stands in for the checkpoint's. Patches are merged (3 x 3 or 4 x 4) into 81
cells at 384 px, 64 at 512 px. A frame is stretched to a square after a first resize.
"""

from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.smolvlm.processing_smolvlm import (
    DEFAULT_CHAT_TEMPLATE,
    DEFAULT_MEDIA_OUTTRO,
    DEFAULT_VIDEO_INTRO,
    FRAME_TIMESTAMP_MESSAGE,
)
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.family import Layout
from batch.models.pictures import SquareFamily, pixel_values
from batch.video import Footage, Geometry

_SIZE = {"longest_edge": 4 * 364}
"""Of the first resize, if neither `size` nor `video_sampling` says it."""
_LARGEST_PX = 4096
"""Of the first resize, whatever the settings say. Source of both: SmolVLMVideoProcessor of
transformers 5.23."""


class SmolVLM(SquareFamily):
    """SmolVLM 2 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "smolvlm"
    defaults: ClassVar[dict[str, Any]] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "max_image_size": {"longest_edge": 364},
        "resample": 1,  # lanczos
        "rescale_factor": 1 / 255,
        "image_mean": IMAGENET_STANDARD_MEAN,
        "image_std": IMAGENET_STANDARD_STD,
    }
    """Source: SmolVLMVideoProcessor of transformers 5.23."""
    picture_token: ClassVar[str] = "image_token_id"
    no_timestamps: ClassVar[str | None] = "its prompt tells the time of every sample already"

    def __init__(self, checkpoint: Checkpoint) -> None:
        # Transformers' processor, too, takes this template for every conversation with a video.
        super().__init__(replace(checkpoint, chat_template=DEFAULT_CHAT_TEMPLATE))

    @cached_property
    def geometry(self) -> Geometry:
        vision, name = self.config.vision_config, self.checkpoint.name
        patches = vision.image_size // vision.patch_size
        cells, rest = divmod(patches, self.config.scale_factor)
        if rest:
            raise ModelError(
                f"{name}: {patches} x {patches} patches do not divide into cells of "
                f"{self.config.scale_factor} x {self.config.scale_factor}"
            )
        sampling = self._pictures.get("video_sampling") or {}
        size = self._pictures.get("size") or sampling.get("video_size", _SIZE)
        if "longest_edge" not in size:
            raise ModelError(f"{name}: the processor resizes to {size}, supported is longest_edge")
        side_px = self._pictures["max_image_size"]["longest_edge"]
        square = {"size": {"height": side_px, "width": side_px}, "do_center_crop": False}
        geometry = self.square_geometry(
            self._pictures | square,
            side_px=vision.image_size,
            covered_px=patches * vision.patch_size,
            cells_across=cells,
        )
        return replace(geometry, longest_px=min(_LARGEST_PX, size["longest_edge"]))

    def layout(self, footage: Footage) -> Layout:
        content, intro = [{"type": "video"}], _intro(footage)
        (plain, _) = self._texts(content, intro, [""])
        texts = self._texts(content, intro, _times(footage))
        return self.lay_out_frames(texts, plain, footage, closing=1)

    def question_ids(self, question: str, *later: str) -> list[int]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return [int(i) for i in self._texts(content, "", [""], *later)[-1][1:]]

    def _texts(
        self, content: list[dict[str, Any]], intro: str, times: list[str], *later: str
    ) -> list[NDArray[np.int64]]:
        """The text around a video's samples; each behind a sample begins with what closes it."""
        tokenizer = self.checkpoint.tokenizer
        fence = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(tokenizer, "global_image_token", "<global-img>")
        picture = f"{fence}{whole}{self.placeholder}{fence}"
        video = intro + "".join(time + picture for time in times) + DEFAULT_MEDIA_OUTTRO
        sent = getattr(tokenizer, "video_token", "<video>")
        ids = self.token_ids(self.conversation_text(content, *later).replace(sent, video, 1))
        return self.texts_around(ids, len(times))

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        pixels = pixel_values(pictures, self._pictures, self.model)
        (found,) = self.model.model.get_image_features(pixels[None]).pooler_output
        features: Tensor = found.unflatten(0, (len(pictures), geometry.cells))
        return features

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.text_model
        return decoder


def _intro(footage: Footage) -> str:
    try:
        from num2words import num2words
    except ImportError as error:
        raise ModelError(
            "SmolVLM's prompt has the number of samples in words, and num2words is missing;  "
            "pip install 'num2words>=0.5.14,<1'"
        ) from error
    length = timedelta(seconds=int(footage.duration_s))
    return DEFAULT_VIDEO_INTRO.format(frame_count=num2words(len(footage)), video_duration=length)


def _times(footage: Footage) -> list[str]:
    # Rounded, since the difference of two times may fall short of the full second between them.
    seconds = np.round(footage.pts_s - footage.start_s, 6).astype(int)
    times = [f"{second // 60:02d}:{second % 60:02d}" for second in seconds]
    return [FRAME_TIMESTAMP_MESSAGE.format(timestamp=time) for time in times]
