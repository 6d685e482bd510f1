"""Models of published shapes with random weights: as large and as slow as the real ones."""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from batch.evaluation.training.checkpoint import (
    PATCH_PX,
    SPECIAL,
    llava_config,
    new_processor,
    new_tokenizer,
)
from batch.models import Checkpoint, Family, open_checkpoint
from batch.models.llava_next import LlavaNext
from batch.models.placement import Device, first_device


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """A checkpoint whose weights are drawn from a seed, not read."""

    seed: int = 0

    @cached_property
    def weights_sha256(self) -> str:
        return hashlib.sha256(f"random weights, seed {self.seed}".encode()).hexdigest()

    def load_weights(self, *, dtype: torch.dtype, device: Device) -> PreTrainedModel:
        torch.manual_seed(self.seed)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]  # untyped in 5.23
            self.config, dtype=dtype
        )
        torch.nn.Module.to(model, first_device(device))
        return model


_DECODER: dict[str, Any] = {
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "pad_token_id": SPECIAL.index("<pad>"),
    "bos_token_id": SPECIAL.index("<s>"),
    "eos_token_id": SPECIAL.index("</s>"),
}
"""What both decoders have, and the demo's special tokens."""


def half_billion(folder: Path) -> Family:
    """LLaVA-1.6 around the decoder of LLaVA-OneVision-0.5B.

    The decoder is Qwen2-0.5B's, vocabulary included; a sample has OneVision's 14x14 cells. The
    vision tower is SigLIP's width (1,152) with 2 layers where the real one has 27, so both ways
    are charged less for pictures than they would be.

    Source: config.json of llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    """
    decoder = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **_DECODER,
    )
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "projection_dim": 1152}
    return _llava(folder, decoder, tower, layers=2, cells=14, vision_layer=-1)


def seven_billion(folder: Path) -> Family:
    """LLaVA-1.6-Mistral-7B's own shape; its tower, CLIP ViT-L/14 at 336 px, gives 24x24 cells.

    Source: config.json of llava-hf/llava-v1.6-mistral-7b-hf.
    """
    decoder = MistralConfig(
        vocab_size=32_064,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        sliding_window=None,
        **_DECODER,
    )
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768}
    return _llava(folder, decoder, tower, layers=24, cells=24, vision_layer=-2)


def _llava(
    folder: Path,
    decoder: PreTrainedConfig,
    tower: dict[str, Any],
    *,
    layers: int,
    cells: int,
    vision_layer: int,
) -> Family:
    """Write and open a LLaVA-1.6 with cells x cells a sample, which knows only the demo's words."""
    side_px = cells * PATCH_PX
    vision = CLIPVisionConfig(
        **tower,
        num_hidden_layers=layers,
        num_attention_heads=16,
        image_size=side_px,
        patch_size=PATCH_PX,
    )
    config = llava_config(vision, decoder, side_px=side_px, vision_layer=vision_layer)
    config.save_pretrained(folder)
    new_processor(new_tokenizer(), side_px).save_pretrained(folder)
    files = open_checkpoint(str(folder))
    parts = {part.name: getattr(files, part.name) for part in fields(files)}
    return LlavaNext(RandomCheckpoint(**parts))
