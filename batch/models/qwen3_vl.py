"""Qwen3-VL (`qwen3_vl`): every sample a block of its own behind its time, `<12.5 seconds>`.

The video convention of its processor: `<|vision_start|>`; for each sample its time (the mean of
its two frames'), `<|vision_start|>`, cells, `<|vision_end|>`; and another `<|vision_end|>`, with
which the question begins (the outer pair as in transformers 5.10 and later). The processor
divides a budget of pixels among all frames: the longer the video, the smaller its frames.

Deepstack: features of earlier layers of the vision tower are added to the cells' states behind
the first decoder layers. What is added is part of a slot's embedding, zero for text, and is taken
apart where the decoder begins.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from batch.kv import Kernel
from batch.models.family import Layout, time_text
from batch.models.placement import Device
from batch.models.qwen_vl import MropeSlots, QwenVL
from batch.video import Footage


class Qwen3VL(QwenVL):
    """Qwen3-VL with dense decoders; embeddings are [..., hidden * (1 + deepstack levels)]."""

    model_type: ClassVar[str] = "qwen3_vl"
    no_timestamps: ClassVar[str | None] = "its prompt tells the time of every sample already"
    defaults: ClassVar[dict[str, Any]] = QwenVL.defaults | {
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
        "patch_size": 16,
        "image_mean": IMAGENET_STANDARD_MEAN,
        "image_std": IMAGENET_STANDARD_STD,
    }
    """Source: Qwen3VLVideoProcessor of transformers 5.23."""
    bounds: ClassVar[Literal["frame", "video"]] = "video"

    def layout(self, footage: Footage) -> Layout:
        opens, closes = self.config.vision_start_token_id, self.config.vision_end_token_id
        slots = MropeSlots()
        slots.text(self.texts_around_only()[0])
        middle_s = (footage.pts_s + footage.last_pts_s) / 2 - footage.start_s
        for sample, seconds in enumerate(middle_s):
            ids = self.checkpoint.tokenizer(time_text(seconds), add_special_tokens=False).input_ids
            slots.text([*ids, opens], sample)
            slots.video(self.picture_id, sample, np.zeros(1, np.int64), footage.geometry)
            slots.text([closes], sample)
        return slots.layout()

    def cells_of(self, found: Any) -> Tensor:
        levels = [found.pooler_output, *found.deepstack_features]
        return torch.cat([of_videos[0] for of_videos in levels], dim=-1)

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded = super().text_embeddings(token_ids)
        deeper = len(self.config.vision_config.deepstack_visual_indexes)
        return nn.functional.pad(embedded, (0, deeper * embedded.shape[-1]))

    def load(self, *, device: Device, dtype: torch.dtype, attention: Kernel = "auto") -> None:
        super().load(device=device, dtype=dtype, attention=attention)
        self.language_model.register_forward_pre_hook(_take_apart, with_kwargs=True)


def _take_apart(
    decoder: Any, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand a decoder what enters its first layer, and what is added behind which of the others.

    Adding the zeros of text changes nothing, so all slots are given as visual.
    """
    embedded, *deeper = inputs["inputs_embeds"].split(decoder.config.hidden_size, dim=-1)
    everywhere = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    apart = {
        "inputs_embeds": embedded,
        "visual_pos_masks": everywhere,
        "deepstack_visual_embeds": [level.flatten(0, 1) for level in deeper],
    }
    return args, inputs | apart
