"""Rows that are attended to by their codes equal the rows that the codec decodes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.kv import attention
from batch.kv.attention import attend, merge
from batch.kv.codes import LEAST_NUMBERS, MOST_QUERIES, attend_codes, takes_codes
from cachefmt.tiers import Tier
from tests.kv.encoded import encoded, random
from tests.kv.test_attention import assert_close, softmax_attention

SHAPES = ((16, 16), (16, 4), (12, 4), (12, 12), (2, 1))
"""head_dim and group size; the third has a group with channels in low and in high nibbles."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tier", [Tier.INT8, Tier.INT4])
@settings(max_examples=30)
@given(
    shape=st.sampled_from(SHAPES),
    kv_heads=st.integers(1, 3),
    rows=st.integers(1, 20),
    chunk_rows=st.integers(1, 12),
    queries=st.integers(1, 5),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_attention_to_codes_equals_attention_to_decoded_rows(
    tier, dtype, shape, kv_heads, rows, chunk_rows, queries, has_bias, seed
):
    head_dim, group_size = shape
    query = random(kv_heads, queries, head_dim, seed=seed).to(dtype)
    key, value = random(2, rows, kv_heads, head_dim, seed=seed + 1)
    bias = random(rows, seed=seed + 2) if has_bias else None
    part = encoded(tier, 1 + 3 * key, value - 2, bias, group_size)
    scaling = 0.25
    found = merge(attend_codes(query, part, scaling=scaling, chunk_rows=chunk_rows))
    decoded = tier.codec.decode(*part.key), tier.codec.decode(*part.value)
    whole = softmax_attention(query, *decoded, bias, scaling)
    for got, expected in zip(found, whole, strict=True):
        assert_close(got, expected, tolerance=2e-5)


def test_a_few_queries_and_many_coded_rows_are_attended_to_by_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = LEAST_NUMBERS // (2 * 16)
    key, value = random(2, rows, 2, 16)
    query = random(2, MOST_QUERIES, 16, seed=1)
    coded, raw = (encoded(tier, key, value, group_size=16) for tier in (Tier.INT4, Tier.FP16))
    assert takes_codes(query, coded)
    assert not takes_codes(query, raw)
    assert not takes_codes(query, encoded(Tier.INT4, key[1:], value[1:], group_size=16))
    assert not takes_codes(random(2, MOST_QUERIES + 1, 16), coded)
    found = attend(query, [raw, coded], scaling=0.25)
    monkeypatch.setattr(attention, "takes_codes", lambda query, part: False)
    decoded = attend(query, [raw, coded], scaling=0.25)
    for got, expected in zip(found, decoded, strict=True):
        assert_close(got, expected)
        assert not torch.equal(got, expected)  # another way was taken
