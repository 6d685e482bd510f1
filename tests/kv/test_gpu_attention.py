"""torch's kernels for CUDA: what they are given, by stand-ins here; what they give, on a GPU."""

import math

import pytest
import torch

from batch.kv import attention
from batch.kv.attention import Block, attend, attend_block, attend_own, fold, unfold
from cachefmt.tiers import Tier
from tests.kv.encoded import encoded, random, raw

KV_HEADS, HEAD_DIM = 2, 16
SCALING = HEAD_DIM**-0.5
ON_GPU = [kernel for kernel in attention._KERNELS if kernel.device == "cuda"]


def flash(query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale):
    """Takes 16-bit numbers, groups of heads, no bias."""
    assert query.dtype in (torch.bfloat16, torch.float16)
    assert query.dtype == key.dtype == value.dtype
    assert query.shape[1] % key.shape[1] == 0
    assert query.shape[-1] % 8 == 0
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert not is_causal or query.shape[2] == key.shape[2]
    output, lse = attention._plain(query, key, value, None, scale, is_causal)
    return output.to(query.dtype), lse, *[None] * 7


def efficient(
    query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale
):
    """Takes as many key heads as heads, a whole bias of the queries' dtype, in aligned rows."""
    assert compute_log_sumexp
    assert query.dtype == key.dtype == value.dtype
    assert query.shape[1] == key.shape[1]
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    bias = None
    if attn_bias is not None:
        assert attn_bias.dtype == query.dtype
        assert attn_bias.shape == (*query.shape[:3], key.shape[2])
        assert attn_bias.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in attn_bias.stride()[:3])
        assert attn_bias.data_ptr() % 16 == 0
        assert not is_causal
        bias = attn_bias.float()
    scores = query.float() @ key.float().transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    lse = torch.logsumexp(scores, -1)
    output = torch.softmax(scores, -1) @ value.float()  # NaN for a query that sees nothing
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.nan)
    return output.to(query.dtype), lse, None, None


@pytest.fixture
def stand_ins(monkeypatch):
    """The table of kernels as if this were a GPU."""
    monkeypatch.setattr(
        attention, "_KERNELS", tuple(kernel._replace(device="cpu") for kernel in ON_GPU)
    )
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention", flash, raising=False)
    monkeypatch.setattr(
        torch.ops.aten, "_scaled_dot_product_efficient_attention", efficient, raising=False
    )


def cases(device):
    """Names, and what each computes; every way into the kernels, with odd sizes."""
    query = random(2, 3 * KV_HEADS, 13, HEAD_DIM, seed=1).to(device)
    key, value = random(2, 2, KV_HEADS, 13, HEAD_DIM, seed=2).to(device)
    counted = random(13, seed=3).abs().to(device)
    hidden = random(2, 1, 13, 13, seed=4) > 0
    hidden[0, 0, 2] = True  # this query sees nothing
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf).to(device)
    states = random(2, 45, KV_HEADS, HEAD_DIM, seed=5)
    bias = random(45, seed=6).abs()
    first = raw(*states[:, :9].to(device))
    rest = [
        encoded(tier, *part, its_bias, group_size=16)
        for tier, part, its_bias in zip(
            (Tier.INT8, Tier.INT4), states[:, 9:].split(18, 1), bias[9:].split(18), strict=True
        )
    ]
    parts = [first, *(moved(part, device) for part in rest)]

    def own(dtype, block=None):
        return attend_block(*(x.to(dtype) for x in (query, key, value)), block, scaling=SCALING)

    def stored(dtype, parts, chunk_rows):
        folded, lse = attend(
            fold(query.to(dtype), KV_HEADS),
            parts,
            scaling=SCALING,
            chunk_rows=chunk_rows,
        )
        return unfold(folded, 2, 13), unfold(lse, 2, 13)

    return {
        "causal": own,
        "copies": lambda dtype: own(dtype, Block(stops=(5, 12, 13), bias=counted)),
        "masked": lambda dtype: attend_own(
            *(x.to(dtype) for x in (query, key, value)), mask, scaling=SCALING
        ),
        "rows": lambda dtype: stored(dtype, [moved(raw(*states), device)], None),
        "tiers": lambda dtype: stored(dtype, parts, None),
        "chunks": lambda dtype: stored(dtype, parts, 7),
    }


def moved(part, device):
    return type(part)(
        tier=part.tier,
        key=tuple(one.to(device) for one in part.key),
        value=tuple(one.to(device) for one in part.value),
        bias=None if part.bias is None else part.bias.to(device),
        scratch=part.scratch,
    )


NAMES = list(cases("cpu"))


def assert_agree(found, exact, dtype):
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}[dtype]
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(
            got.float().cpu(), wanted.float(), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_of_cuda_are_given_what_they_take(stand_ins, name, dtype):
    found = cases("cpu")[name](dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_KERNELS", ())
        exact = cases("cpu")[name](torch.float32)
    assert_agree(found, exact, dtype)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_of_cuda_give_what_plain_torch_gives(name, dtype):
    found = cases("cuda")[name](dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_KERNELS", ())
        exact = cases("cpu")[name](torch.float32)
    assert_agree(found, exact, dtype)


@pytest.mark.parametrize(
    ("dtype", "has_bias", "head_dim", "chosen"),
    [
        (torch.bfloat16, False, 128, "_flash"),
        (torch.bfloat16, True, 128, "_efficient"),
        (torch.float32, False, 128, "_efficient"),
        (torch.bfloat16, False, 512, "_efficient"),
        (torch.bfloat16, False, 20, None),
        (torch.float64, False, 128, None),
    ],
)
def test_each_kernel_takes_what_it_can(dtype, has_bias, head_dim, chosen):
    query = torch.empty(1, 2, 3, head_dim, dtype=dtype)
    bias = torch.zeros(1, 1, 3, 3) if has_bias else None
    able = [
        kernel.attend.__name__
        for kernel in ON_GPU
        if kernel._replace(device="cpu").takes(query, bias)
    ]
    assert (able or [None])[0] == chosen
