"""Attention over parts equals one plain softmax over all their rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from batch.kv import attention
from batch.kv.attention import Block, attend, attend_block, attend_own, fold, merge, unfold
from cachefmt.tiers import STORED_TIERS, Tier
from tests.kv.encoded import encoded, random, raw

KV_HEADS, HEAD_DIM = 2, 16
SCALING = HEAD_DIM**-0.5
few = settings(max_examples=40)


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    scaling: float = SCALING,
) -> tuple[Tensor, Tensor]:
    """One plain softmax in float64; query [heads, n, dim], key and value [rows, heads, dim]."""
    scores = query.double() @ key.double().permute(1, 2, 0) * scaling
    if bias is not None:
        scores = scores + bias.double()
    output = torch.softmax(scores, -1) @ value.double().transpose(0, 1)
    return output, torch.logsumexp(scores, -1)


def assert_close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=tolerance)


def hide(hidden):
    return torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)


@pytest.mark.parametrize("path", ["kernel", "plain"])
@few
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0),
    chunk_rows=st.integers(1, 12),
    queries=st.integers(1, 5),
    seed=st.integers(0, 2**20),
)
def test_rows_in_any_order_parts_and_chunks_equal_one_softmax(
    path, sizes, chunk_rows, queries, seed
):
    rows = sum(sizes)
    query = random(KV_HEADS, queries, HEAD_DIM, seed=seed)
    key, value = random(2, rows, KV_HEADS, HEAD_DIM, seed=seed + 1)
    bias = random(rows, seed=seed + 2)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    parts = [raw(key[index], value[index], bias[index]) for index in order.split(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        if path == "plain":
            patch.setattr(attention, "_KERNELS", ())
        output, lse = attend(query, parts, scaling=SCALING, chunk_rows=chunk_rows)
    expected_output, expected_lse = softmax_attention(query, key, value, bias)
    assert_close(output, expected_output)
    assert_close(lse, expected_lse)


def test_dropping_one_row_is_seen():
    query, (key, value) = random(KV_HEADS, 3, HEAD_DIM), random(2, 9, KV_HEADS, HEAD_DIM, seed=1)
    whole, _ = attend(query, [raw(key, value)], scaling=SCALING)
    without, _ = attend(query, [raw(key[1:], value[1:])], scaling=SCALING)
    assert (whole - without).abs().max() > 1e-2


@few
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=12), seed=st.integers(0, 2**20))
def test_a_bias_of_log_m_equals_m_copies(counts, seed):
    multiplicity = torch.tensor(counts)
    query = random(KV_HEADS, 4, HEAD_DIM, seed=seed)
    key, value = random(2, len(counts), KV_HEADS, HEAD_DIM, seed=seed + 1)
    biased = attend(query, [raw(key, value, multiplicity.log())], scaling=SCALING, chunk_rows=5)
    copies = raw(key.repeat_interleave(multiplicity, 0), value.repeat_interleave(multiplicity, 0))
    copied = attend(query, [copies], scaling=SCALING)
    assert_close(biased[0], copied[0])
    assert_close(biased[1], copied[1])


@few
@given(
    batch=st.integers(1, 3),
    group=st.integers(1, 4),
    queries=st.integers(1, 4),
    seed=st.integers(0, 2**20),
)
def test_folded_grouped_queries_equal_repeated_keys(batch, group, queries, seed):
    heads = KV_HEADS * group
    query = random(batch, queries, heads, HEAD_DIM, seed=seed).transpose(1, 2)
    key, value = random(2, 7, KV_HEADS, HEAD_DIM, seed=seed + 1)
    folded, folded_lse = attend(fold(query, KV_HEADS), [raw(key, value)], scaling=SCALING)
    output, lse = unfold(folded, batch, queries), unfold(folded_lse, batch, queries)
    repeated_key, repeated_value = (
        key.repeat_interleave(group, 1),
        value.repeat_interleave(group, 1),
    )
    for sequence in range(batch):
        expected = softmax_attention(query[sequence], repeated_key, repeated_value)
        assert_close(output[sequence], expected[0])
        assert_close(lse[sequence], expected[1])


@pytest.mark.parametrize("path", ["kernel", "plain"])
@few
@given(
    batch=st.integers(1, 3),
    group=st.integers(1, 3),
    queries=st.integers(1, 6),
    past=st.integers(0, 5),
    seed=st.integers(0, 2**20),
)
def test_own_keys_under_a_mask_equal_repeated_keys(path, batch, group, queries, past, seed):
    keys, heads = past + queries, KV_HEADS * group
    query = random(batch, queries, heads, HEAD_DIM, seed=seed).transpose(1, 2)
    # Views of a larger buffer, as a growing suffix gives them.
    key, value = random(2, batch, KV_HEADS, keys + 3, HEAD_DIM, seed=seed + 1)[:, :, :, :keys]
    visible = random(batch, 1, queries, keys, seed=seed + 2) > 0
    with pytest.MonkeyPatch.context() as patch:
        if path == "plain":
            patch.setattr(attention, "_KERNELS", ())
        output, lse = attend_own(query, key, value, hide(~visible), scaling=SCALING)
    hidden = ~visible.any(-1).expand(lse.shape)
    assert bool((lse[hidden] == -math.inf).all())
    assert bool((output[hidden] == 0).all())
    mask = hide(~visible)
    for sequence in range(batch):
        rows = key[sequence].transpose(0, 1), value[sequence].transpose(0, 1)
        repeated = [states.repeat_interleave(group, 1) for states in rows]
        expected = softmax_attention(query[sequence], *repeated, mask[sequence])
        seen = ~hidden[sequence]
        assert_close(output[sequence][seen], expected[0][seen])
        assert_close(lse[sequence][seen], expected[1][seen])


@pytest.mark.parametrize("path", ["kernel", "plain"])
@few
@given(
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    group=st.integers(1, 3),
    is_counted=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_a_block_equals_a_mask_with_the_copies_that_come_later(
    path, pieces, group, is_counted, seed
):
    columns = sum(pieces)
    query = random(1, KV_HEADS * group, columns, HEAD_DIM, seed=seed)
    key, value = random(2, 1, KV_HEADS, columns, HEAD_DIM, seed=seed + 1)
    piece = torch.arange(len(pieces)).repeat_interleave(torch.tensor(pieces))
    block, mask = None, hide(torch.ones(columns, columns).triu(1).bool())
    if is_counted:
        bias = random(columns, seed=seed + 2).abs()
        stops = tuple(torch.tensor(pieces).cumsum(0).tolist())
        block = Block(stops=stops, bias=bias)
        mask = mask + torch.where(piece[:, None] > piece, bias, 0)
    with pytest.MonkeyPatch.context() as patch:
        if path == "plain":
            patch.setattr(attention, "_KERNELS", ())
        found = attend_block(query, key, value, block, scaling=SCALING)
    expected = attend_own(query, key, value, mask[None, None], scaling=SCALING)
    for got, wanted in zip(found, expected, strict=True):
        assert_close(got, wanted)


def test_a_block_is_told_its_copies_on_one_device_whatever_that_of_a_layer(monkeypatch):
    query, key, value = torch.empty(3, 1, KV_HEADS, 5, HEAD_DIM, device="meta")
    partial, devices = attention._partial, []

    def watch(query, key, value, bias, scaling, *, is_causal=False):
        devices.append("none" if bias is None else bias.device.type)
        return partial(query, key, value, bias, scaling, is_causal=is_causal)

    monkeypatch.setattr(attention, "_partial", watch)
    attend_block(query, key, value, Block(stops=(2, 5), bias=torch.ones(5)), scaling=SCALING)
    assert devices == ["none", "none", "meta"]


def test_a_query_that_sees_nothing_in_one_part_takes_all_from_the_other():
    query, (key, value) = random(1, 2, 3, HEAD_DIM), random(2, 1, 2, 3, HEAD_DIM, seed=1)
    nothing = attend_own(query, key, value, hide(torch.ones(1, 1, 3, 3).bool()), scaling=1.0)
    something = attend_own(query, key, value, torch.zeros(1, 1, 3, 3), scaling=1.0)
    for pair in ([nothing, something], [something, nothing]):
        output, lse = merge(pair)
        assert_close(output, something[0])
        assert_close(lse, something[1])
    output, lse = merge([nothing, nothing])
    assert bool((output == 0).all())
    assert bool((lse == -math.inf).all())


def test_long_left_padding_is_hidden():
    """Whole blocks of keys masked away, as the CPU kernel splits them."""
    query, (key, value) = random(1, 2, 1, HEAD_DIM), random(2, 1, 2, 1500, HEAD_DIM, seed=1)
    visible = (torch.arange(1500) >= 1490).expand(1, 1, 1, 1500)
    output, lse = attend_own(query, key, value, hide(~visible), scaling=SCALING)
    seen = key[0, :, 1490:].transpose(0, 1), value[0, :, 1490:].transpose(0, 1)
    expected_output, expected_lse = softmax_attention(query[0], *seen)
    assert_close(output[0], expected_output)
    assert_close(lse[0], expected_lse)


def test_merging_is_stable_for_scores_far_apart():
    outputs = torch.ones(1, HEAD_DIM), torch.zeros(1, HEAD_DIM)
    output, lse = merge([(outputs[0], torch.tensor([1e4])), (outputs[1], torch.tensor([-1e4]))])
    assert_close(output, outputs[0])
    assert_close(lse, torch.tensor([1e4]))


def test_attending_to_nothing_is_an_error():
    empty = raw(random(0, KV_HEADS, HEAD_DIM), random(0, KV_HEADS, HEAD_DIM))
    with pytest.raises(ValueError, match="every part is empty"):
        attend(random(KV_HEADS, 1, HEAD_DIM), [empty, empty], scaling=SCALING)
    with pytest.raises(ValueError, match="every part is empty"):
        merge([])
    none = torch.zeros(1, KV_HEADS, 0, HEAD_DIM)
    with pytest.raises(ValueError, match="zero keys"):
        attend_own(none[:, :, :0], none, none, torch.zeros(1, 1, 0, 0), scaling=SCALING)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype):
    query, (key, value) = random(KV_HEADS, 5, HEAD_DIM), random(2, 300, KV_HEADS, HEAD_DIM, seed=1)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    output, lse = attend(query, [raw(key, value)], scaling=SCALING, chunk_rows=64)
    expected_output, expected_lse = softmax_attention(query, key, value)
    assert_close(output, expected_output, tolerance=3 * torch.finfo(dtype).eps)
    assert_close(lse, expected_lse, tolerance=1e-3)
    assert output.dtype == lse.dtype == torch.float32


@few
@given(
    rows=st.integers(0, 9),
    chunk_rows=st.integers(1, 10),
    group_size=st.sampled_from([1, 4, 8, 16]),
    tier=st.sampled_from(STORED_TIERS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**20),
)
def test_chunks_hold_what_the_codec_decodes_rounded_once(
    rows, chunk_rows, group_size, tier, dtype, seed
):
    key, value = random(2, rows, KV_HEADS, HEAD_DIM, seed=seed) * 3
    part = encoded(tier, key, value, group_size=group_size)
    assert len(part) == rows
    for kind in ("key", "value"):
        got = [getattr(chunk, kind).clone() for chunk in part.chunks(dtype, chunk_rows)]
        expected = tier.codec.decode(*getattr(part, kind)).to(dtype)
        assert torch.equal(torch.cat([expected[:0], *got]), expected)


@pytest.mark.parametrize("tier", STORED_TIERS)
def test_keys_are_those_of_the_chunks(tier):
    key, value = random(2, 9, KV_HEADS, HEAD_DIM)
    part = encoded(tier, key, value, bias=random(9))
    alone = [(found.clone(), bias) for found, bias in part.keys(torch.bfloat16, 4)]
    chunks = [(chunk.key.clone(), chunk.bias) for chunk in part.chunks(torch.bfloat16, 4)]
    assert [len(found) for found, _ in alone] == [4, 4, 1]
    for pair, other in zip(alone, chunks, strict=True):
        assert all(map(torch.equal, pair, other))


def test_decoding_uses_one_buffer_again():
    key, value = random(2, 40, KV_HEADS, HEAD_DIM)
    part = encoded(Tier.INT4, key, value, group_size=16)
    addresses = {chunk.key.data_ptr() for _ in range(3) for chunk in part.chunks(torch.float32, 8)}
    assert len(addresses) == 1


def test_raw_rows_of_the_compute_dtype_are_not_copied():
    key, value = random(2, 10, KV_HEADS, HEAD_DIM)
    chunks = list(raw(key, value).chunks(torch.float32, 4))
    assert [chunk.key.data_ptr() for chunk in chunks] == [key[at].data_ptr() for at in (0, 4, 8)]


def test_a_buffer_made_in_inference_mode_serves_outside_of_it():
    key, value = random(2, 10, KV_HEADS, HEAD_DIM)
    part = encoded(Tier.INT8, key, value, group_size=16)
    query = random(KV_HEADS, 1, HEAD_DIM)
    with torch.inference_mode():
        inside = attend(query, [part], scaling=SCALING)[0].clone()
    assert torch.equal(attend(query, [part], scaling=SCALING)[0], inside)
