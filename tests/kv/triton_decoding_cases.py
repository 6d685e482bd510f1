"""Rows decoded by Triton in one launch equal what their codec decodes; run by `test_triton`."""

import pytest
import torch

from batch.kv.triton_decoding import decode_rows
from cachefmt.tiers import Tier
from tests.kv.encoded import random

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("tier", [Tier.INT8, Tier.INT4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "heads", "head_dim", "group_size"),
    [(1, 1, 8, 8), (37, 2, 64, 64), (23, 3, 128, 64), (11, 2, 80, 16), (70, 1, 96, 96)],
)
def test_decoded_rows_are_the_codecs_rounded_once(tier, dtype, rows, heads, head_dim, group_size):
    states = 3 * random(rows, heads, head_dim, seed=rows)
    encoded = tier.codec.encode(states, group_size)
    out = torch.full(states.shape, torch.nan, dtype=dtype, device=DEVICE)
    decode_rows([part.to(DEVICE) for part in encoded], out)
    # The kernel may multiply and add in one step, which rounds once less. The interpreter's cast
    # to bfloat16 truncates (Triton 3.9).
    exact = tier.codec.decode(*encoded)
    step = torch.finfo(dtype).eps * (exact.abs() + 3)
    assert bool(((out.cpu().float() - exact).abs() <= step).all())


def test_rows_behind_the_last_are_left_alone():
    encoded = Tier.INT4.codec.encode(random(5, 2, 16), 16)
    out = torch.zeros(8, 2, 16, device=DEVICE)
    decode_rows([part.to(DEVICE) for part in encoded], out[:5])
    assert bool((out[:5] != 0).any())
    assert bool((out[5:] == 0).all())


def test_rows_that_are_not_contiguous_are_refused():
    codes, scale = Tier.INT8.codec.encode(random(4, 2, 16), 16)
    with pytest.raises(ValueError, match="not contiguous"):
        decode_rows([codes[::2], scale[::2]], torch.empty(2, 2, 16))
