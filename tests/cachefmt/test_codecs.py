"""The codecs keep the bounds that their docstrings state."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cachefmt.codecs import fp16, int4, int8
from cachefmt.layout import row_specs
from cachefmt.tensors import TORCH_DTYPES
from cachefmt.tiers import STORED_TIERS, Tier
from tests.cachefmt.files import SHAPE

FLOATS = [torch.float16, torch.bfloat16, torch.float32]


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Tensors of any shape, magnitude and offset, with a group size that divides."""
    group_size = draw(st.sampled_from([1, 2, 3, 4, 16, 64]))
    head_dim = group_size * draw(st.integers(1, 3))
    head_dim *= 1 + head_dim % 2
    lead = draw(st.lists(st.integers(0, 4), max_size=3))
    magnitude = draw(st.sampled_from([0.0, 1e-42, 1e-8, 1e-4, 1.0, 30.0, 1e4]))
    offset = draw(st.sampled_from([0.0, 0.0, -1e-8, 1.0, -3.3, 1234.5, -1e4]))
    seed = draw(st.integers(0, 2**32))
    noise = torch.rand(*lead, head_dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    sparse = draw(st.booleans())
    x = noise * magnitude + offset
    if sparse:  # single channels stand out
        x = torch.where(noise > 0.9, x, torch.zeros_like(x))
    return x.to(draw(st.sampled_from(FLOATS))), group_size


def per_channel(parameter: Tensor, group_size: int) -> Tensor:
    return parameter.double().repeat_interleave(group_size, -1)


def group_peak(x: Tensor, group_size: int) -> Tensor:
    groups = x.double().abs().reshape(*x.shape[:-1], x.shape[-1] // group_size, group_size)
    return per_channel(groups.amax(-1), group_size)


@given(inputs())
def test_int8_stays_within_half_a_step(case: tuple[Tensor, int]) -> None:
    x, group_size = case
    codes, scale = int8.encode(x, group_size)
    assert codes.dtype == torch.int8
    assert codes.shape == x.shape
    assert scale.dtype == torch.float16
    assert scale.shape == (*x.shape[:-1], x.shape[-1] // group_size)
    error = (int8.decode(codes, scale).double() - x.double()).abs()
    assert bool((error <= 0.50001 * per_channel(scale, group_size)).all())
    assert not bool((codes == -128).any())


@given(inputs())
def test_int4_stays_within_half_a_step(case: tuple[Tensor, int]) -> None:
    x, group_size = case
    codes, scale, minimum = int4.encode(x, group_size)
    assert codes.dtype == torch.uint8
    assert codes.shape == (*x.shape[:-1], x.shape[-1] // 2)
    assert scale.dtype == minimum.dtype == torch.float16
    assert scale.shape == minimum.shape == (*x.shape[:-1], x.shape[-1] // group_size)
    error = (int4.decode(codes, scale, minimum).double() - x.double()).abs()
    bound = 0.50001 * per_channel(scale, group_size) + 2**-22 * group_peak(x, group_size)
    assert bool((error <= bound).all())


@given(inputs())
def test_scales_are_the_smallest_float16_that_do_not_clip(case: tuple[Tensor, int]) -> None:
    x, group_size = case
    groups = x.float().reshape(*x.shape[:-1], x.shape[-1] // group_size, group_size)
    _, scale, minimum = int4.encode(x, group_size)
    extents = {
        127: (groups.abs().amax(-1), int8.encode(x, group_size)[1]),
        15: (groups.amax(-1) - minimum.float(), scale),
    }
    for levels, (extent, step) in extents.items():
        below = torch.from_numpy(np.nextafter(step.numpy(), np.float16(-1)))
        assert bool((step.double() * levels >= extent.double()).all())
        assert bool((below.double() * levels < extent.double()).logical_or(step == 0).all())
    assert bool((minimum.double() <= groups.amin(-1).double()).all())
    above = torch.from_numpy(np.nextafter(minimum.numpy(), np.float16(np.inf)))
    assert bool((above.double() > groups.amin(-1).double()).all())


@pytest.mark.parametrize("constant", [0.0, -0.0])
def test_groups_of_zeros_are_exact(constant: float) -> None:
    x = torch.full((3, 2, 8), constant)
    assert torch.equal(int8.decode(*int8.encode(x, 4)), torch.zeros_like(x))
    assert torch.equal(int4.decode(*int4.encode(x, 4)), torch.zeros_like(x))


@pytest.mark.parametrize("constant", [1.0, -0.333251953125, 65504.0, -65504.0, 6e-8])
def test_int4_is_exact_on_a_constant_float16(constant: float) -> None:
    x = torch.full((2, 8), constant, dtype=torch.float16)
    assert torch.equal(int4.decode(*int4.encode(x, 8)).half(), x)


def test_a_byte_of_int4_holds_channels_half_a_head_apart() -> None:
    x = torch.arange(16.0)[None]  # with one group, scale 1 and minimum 0: code = channel
    codes, scale, minimum = int4.encode(x, 16)
    assert (scale.item(), minimum.item()) == (1, 0)
    assert codes[0].tolist() == [low + 16 * (low + 8) for low in range(8)]


def test_groups_do_not_disturb_each_other() -> None:
    x = torch.tensor([[0.1, 0.2, 1000.0, -1000.0, 0.3, 0.1]])
    for decoded in (int8.decode(*int8.encode(x, 2)), int4.decode(*int4.encode(x, 2))):
        error = (decoded - x).abs()[0]
        assert error[[0, 1, 4, 5]].max() < 0.01


@pytest.mark.parametrize("tier", STORED_TIERS)
def test_decoding_into_a_buffer_gives_the_same_float32(tier: Tier) -> None:
    parts = tier.codec.encode((torch.randn(50, 2, 64) + 3).half(), 32)
    buffer = torch.full((50, 2, 64), torch.nan)
    found = tier.codec.decode(*parts, out=buffer)
    assert found.data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer, tier.codec.decode(*parts))
    assert tier.codec.decode(*parts).dtype == torch.float32


@pytest.mark.parametrize("tier", STORED_TIERS)
def test_a_codec_makes_the_tensors_that_the_table_says(tier: Tier) -> None:
    shape = replace(SHAPE, raw_dtype="F16", tokens=dict.fromkeys(SHAPE.tokens, 5))
    parts = tier.codec.encode(torch.randn(5, shape.heads, shape.head_dim).half(), shape.group_size)
    made = [(part.dtype, tuple(part.shape)) for part in parts]
    specs = row_specs(shape, tier)
    assert made == [(TORCH_DTYPES[spec.dtype], spec.shape) for spec in specs]


def test_raw_numbers_stay_and_nan_is_refused() -> None:
    x = torch.randn(3, 2, 8).bfloat16()
    (stored,) = fp16.encode(x, 8)
    assert torch.equal(stored, x)
    assert torch.equal(fp16.decode(stored), x.float())
    with pytest.raises(ValueError, match=r"NaN, or numbers that torch\.bfloat16 cannot hold"):
        fp16.encode(x / 0, 8)


@pytest.mark.parametrize("codec", [int8, int4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38])
def test_what_float16_scales_cannot_hold_is_refused(codec: ModuleType, bad: float) -> None:
    x = torch.zeros(3, 2, 8)
    x[1, 1, 5] = bad
    with pytest.raises(ValueError, match="NaN, infinity or a magnitude"):
        codec.encode(x, 4)


def test_the_stated_limits_of_magnitude_are_the_real_ones() -> None:
    int8.encode(torch.tensor([[127 * 65504.0, 0.0]]), 2)
    int4.encode(torch.tensor([[65504.0, -65504.0]]), 2)
    with pytest.raises(ValueError, match="magnitude"):
        int8.encode(torch.tensor([[127 * 65504.0 + 8, 0.0]]), 2)
    with pytest.raises(ValueError, match="magnitude"):
        int4.encode(torch.tensor([[0.0, -65505.0]]), 2)


@pytest.mark.parametrize("codec", [int8, int4])
def test_a_group_size_that_does_not_divide_is_refused(codec: ModuleType) -> None:
    with pytest.raises(ValueError, match="group size 3 does not divide head_dim 8"):
        codec.encode(torch.zeros(1, 8), 3)
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        codec.encode(torch.zeros(1, 8, dtype=torch.float64), 4)


def test_int4_refuses_an_odd_head_dim() -> None:
    with pytest.raises(
        ValueError, match="head_dim must be even to pack two channels a byte, got 7"
    ):
        int4.encode(torch.zeros(1, 7), 7)
