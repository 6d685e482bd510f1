"""INT8: symmetric min-max quantisation per token, head and group of channels."""

import torch
from torch import Tensor

from cachefmt.codecs.quantising import require_finite, scale_for, scale_groups, split_groups

_LEVELS = 127


def encode(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Quantise symmetrically, groups of group_size channels along the last axis.

    Args:
        x: float16, bfloat16 or float32 [..., head_dim], finite.
        group_size: divides head_dim.

    Returns:
        codes int8 [..., head_dim], -127..127, and scale float16 [..., groups], the smallest
        float16 with 127 * scale >= max|x| of the group, so nothing clips. decode in float32 is
        within 0.50001 * scale of x (half a step and float32's rounding); zeros are exact.

    Raises:
        ValueError: a value is NaN or infinite, or its scale would exceed float16
            (|x| above 127 * 65504); or group_size does not divide head_dim.
    """
    codes, scale = quantise(x, group_size)
    check(codes, scale)
    return codes, scale


def quantise(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """As `encode`; what `check` refuses means nothing."""
    groups = split_groups(x, group_size)
    scale = scale_for(groups.abs().amax(-1), _LEVELS)
    step = scale.to(torch.float32).unsqueeze(-1)
    codes = (groups / torch.where(step == 0, 1, step)).round_().to(torch.int8)
    return codes.flatten(-2), scale


def check(codes: Tensor, scale: Tensor) -> None:
    """ValueError if `quantise` was given what `encode` refuses."""
    require_finite("int8", scale)


def unpack(codes: Tensor, *, out: Tensor) -> None:
    """The codes as numbers, into `out` [1, ..., head_dim]."""
    out[0].copy_(codes)


def decode(codes: Tensor, scale: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Float32 [..., head_dim] from what `encode` returns; exact."""
    if out is None:
        out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    return scale_groups(out.copy_(codes), scale)
