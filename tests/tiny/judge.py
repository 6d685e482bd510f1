"""A tiny random judge: a DINOv2 tower of 112 px, a Llama decoder, the demo's words."""

from pathlib import Path

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from batch.evaluation.judges.seeing import PICTURE, join
from batch.evaluation.training.checkpoint import new_tokenizer
from tests.tiny.files import DECODER, FIRST_IDS, scaled

FEATURE_LAYERS = (1, 2)


def judge(folder: Path, adapter: Path | None = None) -> Path:
    """Write it, with a random projector or with an adapter."""
    join(tower(), decoder(), tokenizer(), FEATURE_LAYERS, adapter, folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    words = new_tokenizer()
    words.add_tokens([PICTURE], special_tokens=True)
    return words


def tower(side_px: int = 112) -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=side_px,
        patch_size=14,
        use_mask_token=False,
    )
    return scaled(Dinov2Model(config))


def decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **DECODER,
        **FIRST_IDS,
    )
    return scaled(LlamaForCausalLM(config))
