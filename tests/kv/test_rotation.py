"""Keys moved to other positions are the keys computed there."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel
from transformers.models.qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from batch.errors import ModelError
from batch.kv import TieredCache, forward, install
from batch.kv.prefix import Prefix
from batch.kv.rotation import rotate, rotation_of, unrotate
from cachefmt.codecs import int4, int8
from tests.kv.decoders import SIZES, louder, shape

SCALINGS = {
    "plain": {"rope_type": "default", "rope_theta": 10_000.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "rope_theta": 10_000.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
        "rope_theta": 10_000.0,
    },
}
M_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}


def language_model(name: str) -> PreTrainedModel:
    torch.manual_seed(5)
    if name == "qwen2_vl":
        model = Qwen2VLTextModel(Qwen2VLTextConfig(rope_parameters=M_ROPE, **SIZES))
    elif name == "qwen3_vl":
        config = Qwen3VLTextConfig(rope_parameters=M_ROPE, head_dim=8, **SIZES)
        model = Qwen3VLTextModel(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(rope_parameters=SCALINGS[name], **SIZES)).model
    install()
    louder(model).set_attn_implementation("tiered")
    return model


def first_keys(model: PreTrainedModel, embedded: torch.Tensor, places: torch.Tensor):
    """Keys [tokens, heads, head_dim] that layer 0 makes at positions [tokens, axes]."""
    cache = TieredCache(Prefix.allocate(shape(0), "cpu"))
    ids = places.T[:, None]
    forward(model, embedded[None], ids[0] if len(ids) == 1 else ids, cache)
    return cache.suffix(0)[0][0].transpose(0, 1).clone()


@pytest.mark.parametrize("name", [*SCALINGS, "qwen2_vl", "qwen3_vl"])
def test_moved_keys_are_the_keys_computed_there(name: str) -> None:
    model = language_model(name)
    random = torch.Generator().manual_seed(0)
    embedded = torch.randn(7, SIZES["hidden_size"], generator=random)
    axes = 3 if name.startswith("qwen") else 1
    old, new = torch.randint(0, 400, (2, 7, axes), generator=random)
    there, here = first_keys(model, embedded, new), first_keys(model, embedded, old)
    moved = rotate(unrotate(here, rotation_of(model, old)), rotation_of(model, new))
    torch.testing.assert_close(moved, there, atol=1e-3, rtol=1e-3)
    assert (here - there).abs().max() > 0.1


@pytest.mark.parametrize("codec", [int8, int4])
def test_moved_codes_are_within_the_codecs_own_error_of_the_keys_computed_there(codec) -> None:
    model = language_model("plain")
    embedded = torch.randn(7, SIZES["hidden_size"], generator=torch.Generator().manual_seed(0))
    old, new = torch.arange(7)[:, None], torch.arange(7)[:, None] * 3 + 90
    here, there = first_keys(model, embedded, old), first_keys(model, embedded, new)
    decoded = codec.decode(*codec.encode(here, 8))
    moved = rotate(unrotate(decoded, rotation_of(model, old)), rotation_of(model, new))
    # A rotation keeps the length of each key's error.
    error, bound = (moved - there).norm(dim=-1), (decoded - here).norm(dim=-1)
    torch.testing.assert_close(error, bound, atol=1e-3, rtol=1e-3)


def test_angles_that_depend_on_the_length_are_refused() -> None:
    config = LlamaConfig(
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, **SIZES
    )
    model = LlamaForCausalLM(config).model
    with pytest.raises(ModelError, match="'dynamic' depend on the length"):
        rotation_of(model, torch.zeros(1, 1))
