"""Qwen2-VL (`qwen2_vl`): a video is one block of cells, its samples counted 0, 1, 2, ... in time.

The video convention of its processor: `<|vision_start|>`, the cells of all samples, and
`<|vision_end|>`, with which the question begins. Time is told by the count alone, so pointers
leave no trace where their gaps are closed.
"""

from typing import ClassVar

from batch.models.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """Qwen2-VL."""

    model_type: ClassVar[str] = "qwen2_vl"
