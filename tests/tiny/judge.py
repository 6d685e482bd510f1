"""A tiny random judge: a DINOv2 tower of 112 px, a Llama decoder, the demo's words."""

from pathlib import Path
from typing import TypeVar

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from batch.evaluation.judges.seeing import PICTURE, join
from batch.evaluation.training.checkpoint import new_tokenizer

Model = TypeVar("Model", bound=PreTrainedModel)
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
    return _scaled(Dinov2Model(config))


def decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return _scaled(LlamaForCausalLM(config))


def _scaled(model: Model) -> Model:
    """Weights so large that scores depend on what comes in."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
    return model
