"""Qwen2-VL (`qwen2_vl`): a video is one block of cells, its samples counted 0, 1, 2, ... in time.

The video convention of its processor: `<|vision_start|>`, the cells of all samples, and
`<|vision_end|>`, with which the question begins. Time is told by the count alone, so pointers
leave no trace where their gaps are closed. A checkpoint without video_preprocessor_config.json
takes the pixel limits of its images, as in transformers: up to 12.8 million pixels of a frame.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.models.family import Layout
from batch.models.qwen_vl import DEFAULTS, MropeSlots, QwenVL
from batch.video import Footage


class Qwen2VL(QwenVL):
    """Qwen2-VL."""

    model_type: ClassVar[str] = "qwen2_vl"
    limits: ClassVar[str] = (
        "two frames make a sample; cells follow the video's size within the processor's limits "
        "(min_pixels, max_pixels); a question stands where transformers 5.23 puts it, which in "
        "long videos is not behind the last time, as it was until 5.2"
    )
    defaults: ClassVar[dict[str, Any]] = DEFAULTS | {
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "patch_size": 14,
        "image_mean": OPENAI_CLIP_MEAN,
        "image_std": OPENAI_CLIP_STD,
    }
    bounds: ClassVar[Literal["frame", "video"]] = "frame"

    def layout(self, footage: Footage) -> Layout:
        slots = MropeSlots()
        slots.text(self.texts_around_only("video")[0])
        slots.video(self.picture_id, 0, np.arange(len(footage)), footage.geometry)
        return slots.layout()
