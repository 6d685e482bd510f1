"""The models that are measured, and on how much."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaNextConfig,
    PreTrainedModel,
    Qwen2Config,
)

from batch.demo.checkpoint import PATCH_PX, SPECIAL, new_processor, new_tokenizer
from batch.models import Checkpoint, Family, open_checkpoint, open_family
from batch.models.llava_next import LlavaNext
from batch.models.placement import Device, first_device


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model and its share of the work."""

    name: str
    about: str
    """What of it is true to a published model and what is not."""
    open: Callable[[Path], Family]
    """Opens the model, without weights; may write into the folder."""
    films: int
    samples: int
    """Of each film."""
    answer_tokens: int
    """Most tokens of an answer; random weights never end one earlier."""
    rows: int
    """Rows behind which a decode step is measured."""
    load_tokens: int
    """Tokens in the file whose loading is measured."""


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """A checkpoint whose weights are drawn from a seed, not read."""

    seed: int = 0

    @cached_property
    def weights_sha256(self) -> str:
        return hashlib.sha256(f"random weights, seed {self.seed}".encode()).hexdigest()

    def load_weights(self, *, dtype: torch.dtype, device: Device) -> PreTrainedModel:
        """Draw the model's weights."""
        torch.manual_seed(self.seed)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]  # untyped in 5.23
            self.config, dtype=dtype
        )
        torch.nn.Module.to(model, first_device(device))
        return model


def half_billion(folder: Path) -> Family:
    """LLaVA-1.6 around the decoder of LLaVA-OneVision-0.5B, with random weights.

    The decoder is Qwen2-0.5B's, vocabulary included: 24 layers, hidden 896, intermediate 4,864, 14
    query and 2 key/value heads of 64 channels; a sample has OneVision's 14x14 cells. The vision
    tower is SigLIP's width (1,152) with 2 layers where the real one has 27, so both ways are
    charged less for pictures than they would be. Only the words of the demo are known.

    Source: config.json of llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    """
    cells = 14
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=cells * PATCH_PX,
            patch_size=PATCH_PX,
            projection_dim=1152,
        ),
        text_config=Qwen2Config(
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=[[cells * PATCH_PX, cells * PATCH_PX]],
        image_seq_length=cells**2,
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    new_processor(new_tokenizer(), cells * PATCH_PX).save_pretrained(folder)
    files = open_checkpoint(str(folder))
    parts = {part.name: getattr(files, part.name) for part in fields(files)}
    return LlavaNext(RandomCheckpoint(**parts))


SIZES = {
    size.name: size
    for size in (
        Size(
            name="demo",
            about="the bundled model and the films of batch demo",
            open=lambda folder: open_family("demo"),
            films=3,
            samples=16,
            answer_tokens=64,
            rows=8192,
            load_tokens=4096,
        ),
        Size(
            name="0.5b",
            about="true decoder of LLaVA-OneVision-0.5B, random weights, 2 vision layers of 27",
            open=half_billion,
            films=1,
            samples=16,
            answer_tokens=4,
            rows=8192,
            load_tokens=32_768,
        ),
    )
}
"""By name. `load_tokens` is the decoder's context, the longest prefix it can use; 4 tokens are
the length of the mean answer to a demo question (3.4 with its end, 200 films)."""
