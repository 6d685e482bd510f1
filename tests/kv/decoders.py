"""Tiny random decoders, and the steps that put tokens behind a prefix."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from batch.kv import ATTENTION, Prefix, TieredCache, forward, install
from cachefmt.header import Shape
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

FAMILIES = ("mistral", "llama", "qwen2")
VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def decoder(family: str) -> PreTrainedModel:
    """A causal language model in float32 whose logits do depend on the context."""
    torch.manual_seed(7)
    if family == "mistral":
        model = MistralForCausalLM(MistralConfig(sliding_window=None, **SIZES))
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    return louder(model)


def louder(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights: with the default scale hardly anything depends on the context."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0 if weight.ndim > 1 else 1.0)
    return model.eval()


def tiered(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model that attends over tiers."""
    install()
    model = copy.deepcopy(model)
    model.set_attn_implementation(ATTENTION)
    return model


def shape(fp16: int, int8: int = 0, int4: int = 0, *, raw_dtype: str = "F32") -> Shape:
    return Shape(
        layers=SIZES["num_hidden_layers"],
        heads=SIZES["num_key_value_heads"],
        head_dim=8,
        group_size=8,
        raw_dtype=raw_dtype,
        position_axes=1,
        samples=0,
        stored_samples=0,
        rows=0,
        columns=0,
        tokens=token_counts({Tier.FP16: fp16, Tier.INT8: int8, Tier.INT4: int4}),
        index_layers=(),
    )


def tokens(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def store(
    model: PreTrainedModel,
    prefix: Prefix,
    ids: Tensor,
    positions: Tensor,
    blocks: Sequence[int],
    tiers: Tensor | None = None,
) -> None:
    """Prefill ids [tokens] block by block; tiers [tokens] says where each goes (None: FP16)."""
    tiers = torch.zeros_like(ids) if tiers is None else tiers
    cache = TieredCache(prefix)
    for block_ids, block_positions, block_tiers in zip(
        ids.split(blocks), positions.split(blocks), tiers.split(blocks), strict=True
    ):
        hidden = model.model.embed_tokens(block_ids[None])
        forward(model.model, hidden, block_positions[None], cache)
        for layer in range(prefix.shape.layers):
            key, value = (states[0].transpose(0, 1) for states in cache.suffix(layer))
            for tier in STORED_TIERS:
                rows = block_tiers == tier
                prefix.append(layer, tier, key[rows], value[rows])
        cache.clear_suffix()


@torch.no_grad()
def ask(
    model: PreTrainedModel,
    cache: TieredCache,
    ids: Tensor,
    positions: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Logits [batch, new, vocabulary] of ids [batch, new] behind the cache."""
    hidden = forward(model.model, model.model.embed_tokens(ids), positions, cache, padding)
    return model.lm_head(hidden)
