"""A language model over tiers computes what the model computes by itself."""

import math

import pytest
import torch
from transformers import (
    AttentionInterface,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2VLTextConfig,
    masking_utils,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from batch.errors import ModelError
from batch.kv import ATTENTION, Prefix, TieredCache, forward, install, refuse_unsupported
from cachefmt.tiers import Tier
from tests.kv.decoders import (
    FAMILIES,
    SIZES,
    ask,
    decoder,
    louder,
    shape,
    store,
    tiered,
    tokens,
)

PREFIX, QUESTION = 23, 5
families = pytest.mark.parametrize("family", FAMILIES)


def filled_prefix(model, blocks=(PREFIX,), ids=None, positions=None, **tokens_of):
    ids = tokens(PREFIX) if ids is None else ids
    positions = torch.arange(len(ids)) if positions is None else positions
    prefix = Prefix.allocate(shape(len(ids)), "cpu")
    store(model, prefix, ids, positions, blocks)
    return prefix


def after(prefix_length, batch, length):
    return (prefix_length + torch.arange(length)).expand(batch, -1)


@families
@pytest.mark.parametrize("blocks", [(PREFIX,), (1, 9, 13), (1,) * PREFIX])
def test_logits_equal_the_models_own_forward(family, blocks):
    model = decoder(family)
    over_tiers = tiered(model)
    prefix = filled_prefix(over_tiers, blocks)
    question = tokens(1, QUESTION, seed=1)
    got = ask(over_tiers, TieredCache(prefix), question, after(PREFIX, 1, QUESTION))
    with torch.no_grad():
        whole = model(torch.cat([tokens(PREFIX)[None], question], 1)).logits
    torch.testing.assert_close(got, whole[:, PREFIX:], rtol=0, atol=1e-4)


@families
def test_logits_without_one_row_differ_by_much_more(family):
    over_tiers = tiered(decoder(family))
    question, positions = tokens(1, QUESTION, seed=1), after(PREFIX, 1, QUESTION)
    whole = filled_prefix(over_tiers)
    without = Prefix.allocate(shape(PREFIX - 1), "cpu")
    for layer in range(whole.shape.layers):
        rows = whole.layer(layer)[0]
        without.append(layer, Tier.FP16, rows.key[0][1:], rows.value[0][1:])
    got = ask(over_tiers, TieredCache(without), question, positions)
    expected = ask(over_tiers, TieredCache(whole), question, positions)
    assert (got - expected).abs().max() > 1e-2


@families
def test_answers_generated_step_by_step_equal_one_forward(family):
    model = decoder(family)
    over_tiers = tiered(model)
    cache = TieredCache(filled_prefix(over_tiers))
    ids = tokens(1, 90, seed=2)  # past the suffix's first capacity
    steps = [
        ask(over_tiers, cache, ids[:, at : at + 1], torch.tensor([[PREFIX + at]]))
        for at in range(ids.shape[1])
    ]
    assert cache.get_seq_length() == ids.shape[1]
    with torch.no_grad():
        whole = model(torch.cat([tokens(PREFIX)[None], ids], 1)).logits
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, PREFIX:], rtol=0, atol=1e-4)


@families
def test_a_ragged_padded_batch_equals_one_by_one(family):
    over_tiers = tiered(decoder(family))
    prefix = filled_prefix(over_tiers)
    lengths, steps = [2, 7, 4, 1], 3
    padding = torch.tensor([max(lengths) - length for length in lengths])
    asked = tokens(4, max(lengths), seed=3)
    generated = tokens(4, steps, seed=4)
    place = torch.arange(max(lengths) + steps) - padding[:, None]
    positions = PREFIX + place.clamp(min=0)
    cache = TieredCache(prefix)
    first = ask(over_tiers, cache, asked, positions[:, : max(lengths)], padding)
    assert bool(first.isfinite().all())
    batched = [first[:, -1:]]
    for step in range(steps):
        at = slice(max(lengths) + step, max(lengths) + step + 1)
        batched.append(
            ask(over_tiers, cache, generated[:, step : step + 1], positions[:, at], padding)
        )
    got = torch.cat(batched, 1)
    for row, length in enumerate(lengths):
        ids = torch.cat([asked[row, -length:], generated[row]])[None]
        alone = ask(over_tiers, TieredCache(prefix), ids, after(PREFIX, 1, ids.shape[1]))
        torch.testing.assert_close(got[row], alone[0, length - 1 :], rtol=0, atol=1e-4)


def test_what_stands_in_the_padding_does_not_matter():
    over_tiers = tiered(decoder("llama"))
    prefix, padding = filled_prefix(over_tiers), torch.tensor([3])
    question, positions = tokens(1, 6, seed=1), after(PREFIX, 1, 6)
    other, changed = question.clone(), question.clone()
    other[:, :3] = (other[:, :3] + 1) % SIZES["vocab_size"]
    changed[:, 3] = (changed[:, 3] + 1) % SIZES["vocab_size"]
    got = [
        ask(over_tiers, TieredCache(prefix), ids, positions, padding)
        for ids in (question, other, changed)
    ]
    assert torch.equal(got[0], got[1])
    assert not got[0][:, :3].any()
    assert not torch.equal(got[0][:, 3:], got[2][:, 3:])


def test_nothing_is_computed_for_padding(monkeypatch):
    over_tiers = tiered(decoder("llama"))
    cache = TieredCache(filled_prefix(over_tiers))
    computed, attention = [], ALL_ATTENTION_FUNCTIONS[ATTENTION]

    def spy(module, query, *others, **kwargs):
        computed.append(query.shape[0] * query.shape[2])
        return attention(module, query, *others, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, ATTENTION, spy)
    ask(over_tiers, cache, tokens(3, 6), after(PREFIX, 3, 6), torch.tensor([0, 4, 5]))
    assert computed == [6 + 2 + 1] * SIZES["num_hidden_layers"]


def test_a_question_leaves_no_trace():
    over_tiers = tiered(decoder("mistral"))
    prefix = filled_prefix(over_tiers)
    before = [rows.key[0].clone() for layer in range(3) for rows in prefix.layer(layer)[:1]]
    cache = TieredCache(prefix)
    first, positions = tokens(1, QUESTION, seed=1), after(PREFIX, 1, QUESTION)
    expected = ask(over_tiers, cache, first, positions)
    cache.clear_suffix()
    ask(over_tiers, cache, tokens(4, 9, seed=2), after(PREFIX, 4, 9))
    cache.clear_suffix()
    assert torch.equal(ask(over_tiers, cache, first, positions), expected)
    after_all = [rows.key[0] for layer in range(3) for rows in prefix.layer(layer)[:1]]
    assert all(torch.equal(a, b) for a, b in zip(before, after_all, strict=True))


@families
def test_gaps_in_positions_equal_a_forward_that_masks_the_dropped_tokens(family):
    model = decoder(family)
    over_tiers = tiered(model)
    ids, length = tokens(PREFIX), PREFIX + QUESTION
    kept = torch.rand(PREFIX, generator=torch.Generator().manual_seed(5)) < 0.5
    positions = torch.arange(PREFIX)[kept]
    assert masking_utils.find_packed_sequence_indices(positions[None]).max() > 0  # gaps look packed
    prefix = filled_prefix(over_tiers, (3, int(kept.sum()) - 3), ids[kept], positions)
    question = tokens(1, QUESTION, seed=1)
    got = ask(over_tiers, TieredCache(prefix), question, after(PREFIX, 1, QUESTION))
    seen = torch.cat([kept, torch.ones(QUESTION, dtype=torch.bool)])
    mask = torch.ones(length, length, dtype=torch.bool).tril() & seen
    mask |= torch.eye(length, dtype=torch.bool)
    with torch.no_grad():
        everything = torch.cat([ids[None], question], 1)
        expected = model(everything, attention_mask=mask[None, None]).logits[:, PREFIX:]
        unmasked = model(everything).logits[:, PREFIX:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - unmasked).abs().max() > 1e-2


@families
def test_the_mask_and_the_tiers_reach_the_attention_as_they_were_given(family, monkeypatch):
    over_tiers = tiered(decoder(family))
    cache = TieredCache(filled_prefix(over_tiers))
    received, attention = [], ALL_ATTENTION_FUNCTIONS[ATTENTION]

    def spy(module, query, key, value, attention_mask, **kwargs):
        received.append((attention_mask, kwargs["tiers"]))
        return attention(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, ATTENTION, spy)
    gappy = PREFIX + torch.tensor([[0, 3, 4, 9], [0, 0, 1, 7]])
    ask(over_tiers, cache, tokens(2, 4), gappy, torch.tensor([0, 1]))
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    padded = causal.clone()
    padded[1:, 0] = False
    expected = torch.zeros(2, 1, 4, 4).masked_fill(
        ~torch.stack([causal, padded])[:, None], -math.inf
    )
    assert len(received) == SIZES["num_hidden_layers"]
    for mask, tiers in received:
        assert torch.equal(mask, expected)
        assert tiers is cache


def test_an_implementation_unknown_to_the_masks_gets_none_from_transformers():
    """Why `forward` builds the mask itself."""
    received = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        received.append(attention_mask)
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("spy", spy)
    model = decoder("llama")
    model.set_attn_implementation("spy")
    model(tokens(2, 4), attention_mask=torch.ones(2, 4, dtype=torch.long))
    assert received == [None] * SIZES["num_hidden_layers"]


@pytest.mark.parametrize("axes", [3, 4])
def test_positions_of_several_axes_reach_the_model(axes):
    config = Qwen2VLTextConfig(
        **SIZES,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    )
    torch.manual_seed(7)
    model = louder(Qwen2VLTextModel(config))
    embeddings = torch.randn(1, 12, SIZES["hidden_size"])
    positions = torch.randint(0, 30, (3, 1, 12))
    if axes == 4:  # the first axis then only tells transformers' own masks apart
        positions = torch.cat([torch.arange(12)[None, None], positions])
    with torch.no_grad():
        expected = model(inputs_embeds=embeddings, position_ids=positions[-3:]).last_hidden_state
    cache = TieredCache(Prefix.allocate(shape(0), "cpu"))
    install()
    model.set_attn_implementation(ATTENTION)
    got = [
        forward(model, embeddings[:, part], positions[:, :, part], cache)
        for part in (slice(0, 7), slice(7, 12))
    ]
    torch.testing.assert_close(torch.cat(got, 1), expected, rtol=0, atol=1e-4)
    padded = torch.nn.functional.pad(embeddings, (0, 0, 2, 0)).repeat(2, 1, 1)
    places = torch.nn.functional.pad(positions, (2, 0)).repeat(*[1] * (positions.ndim - 2), 2, 1)
    cache.clear_suffix()
    behind_padding = forward(model, padded, places, cache, torch.tensor([2, 0]))[0, 2:]
    torch.testing.assert_close(behind_padding, expected[0], rtol=0, atol=1e-4)


def test_a_model_prepared_in_inference_mode_serves_outside_of_it():
    over_tiers = tiered(decoder("llama"))
    with torch.inference_mode():
        prefix = filled_prefix(over_tiers)
        cache = TieredCache(prefix)
        inside = ask(over_tiers, cache, tokens(1, 2), after(PREFIX, 1, 2)).clone()
    ask(over_tiers, cache, tokens(1, 1), after(PREFIX + 2, 1, 1))
    outside = ask(over_tiers, TieredCache(prefix), tokens(1, 2), after(PREFIX, 1, 2))
    assert torch.equal(inside, outside)


def test_attention_that_was_not_installed_is_refused():
    model = decoder("llama")
    cache = TieredCache(Prefix.allocate(shape(0), "cpu"))
    with pytest.raises(ModelError, match="LlamaModel: got attention 'sdpa', expected 'tiered'"):
        ask(model, cache, tokens(1, 2), after(0, 1, 2))


def test_a_forward_around_ours_is_refused():
    with pytest.raises(ModelError, match="got no tiers"):
        tiered(decoder("llama"))(tokens(1, 2))


def test_another_batch_size_behind_the_same_suffix_is_refused():
    over_tiers = tiered(decoder("llama"))
    cache = TieredCache(filled_prefix(over_tiers))
    ask(over_tiers, cache, tokens(4, 2), after(PREFIX, 4, 2))
    with pytest.raises(ValueError, match="got a batch of 1, the suffix holds 4"):
        ask(over_tiers, cache, tokens(1, 1), after(PREFIX + 2, 1, 1))


def test_an_empty_suffix_cannot_be_taken():
    cache = TieredCache(Prefix.allocate(shape(0), "cpu"))
    with pytest.raises(ValueError, match="layer 0 has no suffix"):
        cache.suffix(0)


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (MistralConfig(sliding_window=8), "a sliding window of 8 tokens"),
        (
            Qwen2Config(use_sliding_window=True, sliding_window=8, max_window_layers=2),
            "sliding_attention layers",
        ),
        (Gemma2Config(), "attention logit soft-capping at 50.0"),
        (GptOssConfig(), "attention sinks"),
    ],
)
def test_attention_that_is_not_plain_is_refused_by_name(config, feature):
    with pytest.raises(ModelError, match=feature):
        refuse_unsupported(config)


@pytest.mark.parametrize(
    "config",
    [MistralConfig(sliding_window=None), LlamaConfig(), Qwen2Config(), Qwen2VLTextConfig()],
)
def test_plain_attention_is_accepted(config):
    refuse_unsupported(config)


@pytest.mark.parametrize("feature", ["sliding_window", "softcap", "s_aux"])
def test_a_feature_that_only_the_layer_asks_for_is_refused(feature):
    model = tiered(decoder("llama"))
    cache = TieredCache(Prefix.allocate(shape(0), "cpu"))
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ModelError, match=f"the model asks for {feature}"):
        model(tokens(1, 2), attention_mask=mask, tiers=cache, **{feature: 4})
