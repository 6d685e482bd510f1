"""Qwen2.5-VL (`qwen2_5_vl`): a video is one block of cells, each sample at its time in seconds.

The video convention of its processor: `<|vision_start|>`, the cells of all samples, and
`<|vision_end|>`, with which the question begins. Positions in time are `tokens_per_second` times
the seconds since the first sample; so a sample keeps its place whatever is left out before it,
gaps of pointers included.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from batch.models.qwen_vl import QwenVL
from batch.video import Footage


class Qwen2_5VL(QwenVL):
    """Qwen2.5-VL."""

    model_type: ClassVar[str] = "qwen2_5_vl"

    def times_of(self, footage: Footage) -> NDArray[np.int64]:
        sample_s = np.float32(footage.geometry.frames * footage.interval_s)
        # float32 as in transformers 5.23: what is cut off depends on it
        step = np.float32(self.config.vision_config.tokens_per_second) * sample_s
        return (footage.index.astype(np.float32) * step).astype(np.int64)
