"""What codecs with scales share: groups of channels, and rounding to float16 in one direction."""

import torch
from torch import Tensor

_INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_LOWEST_NEGATIVE_BITS = -0x7FFF  # 0x8001 as int16: the negative subnormal nearest to zero


def split_groups(x: Tensor, group_size: int) -> Tensor:
    """Float32 view or copy of x, [..., head_dim], as [..., groups, group_size]."""
    if x.dtype not in _INPUT_DTYPES:
        raise ValueError(f"got {x.dtype}, supported are float16, bfloat16 and float32")
    head_dim = x.shape[-1]
    if group_size < 1 or head_dim < 1 or head_dim % group_size:
        raise ValueError(f"group size {group_size} does not divide head_dim {head_dim}")
    # In order, whatever the strides of x: passes over rows that lie apart take twice as long.
    numbers = x.to(torch.float32, memory_format=torch.contiguous_format)
    return numbers.reshape(*x.shape[:-1], head_dim // group_size, group_size)


def scale_groups(values: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """Scale groups of contiguous float32 [..., head_dim] and add minimum, in place."""
    groups = scale.shape[-1]
    grouped = values.view(*values.shape[:-1], groups, values.shape[-1] // groups)
    grouped.mul_(scale.unsqueeze(-1))
    if minimum is not None:
        grouped.add_(minimum.unsqueeze(-1))
    return values


def scale_for(extent: Tensor, levels: int) -> Tensor:
    """Smallest float16 scale with levels * scale >= extent; extent float32, >= 0.

    levels * scale has at most 18 significant bits, so the comparison is exact in float32;
    the nearest float16 is at most one step too small.
    """
    scale = (extent / levels).to(torch.float16)
    too_small = scale.to(torch.float32) * levels < extent
    return (scale.view(torch.int16) + too_small).to(torch.int16).view(torch.float16)


def round_down(x: Tensor) -> Tensor:
    """Largest float16 that is not above x, float32; -inf where there is none."""
    nearest = x.to(torch.float16)
    bits = nearest.view(torch.int16)
    # One step towards -inf: positive numbers shrink, negative grow in magnitude.
    below = torch.where(bits > 0, bits - 1, bits + 1)
    below = torch.where(nearest == 0, torch.full_like(bits, _LOWEST_NEGATIVE_BITS), below)
    return torch.where(nearest.to(torch.float32) > x, below, bits).view(torch.float16)


def require_finite(codec: str, *parameters: Tensor) -> None:
    """Raise ValueError where a scale or minimum is NaN or infinite."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise ValueError(
            f"{codec}: got NaN, infinity or a magnitude that float16 scales cannot hold"
        )
