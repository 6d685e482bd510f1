"""INT4: asymmetric min-max quantisation per token, head and group of channels."""

import torch
from torch import Tensor

from cachefmt.codecs.quantising import (
    require_finite,
    round_down,
    scale_for,
    scale_groups,
    split_groups,
)

_LEVELS = 15


def encode(x: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to codes 0..15, groups of group_size channels along the last axis.

    Args:
        x: float16, bfloat16 or float32 [..., head_dim], finite; head_dim is even.
        group_size: divides head_dim.

    Returns:
        codes uint8 [..., head_dim / 2]: byte j holds channel j in its low nibble and channel
        j + head_dim / 2 in its high nibble; scale and minimum, float16 [..., groups]. minimum
        is the largest float16 that is not above the group, scale the smallest float16 with
        minimum + 15 * scale >= max of the group, so nothing clips. decode in float32 is within
        0.50001 * scale + 2**-22 * max|x| of the group (half a step and float32's rounding);
        a group of zeros, or of one float16 number, is exact.

    Raises:
        ValueError: a value is NaN or infinite, or its minimum or scale would exceed float16
            (|x| above 65504); or sizes do not fit.
    """
    encoded = quantise(x, group_size)
    check(*encoded)
    return encoded


def quantise(x: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `encode`; what `check` refuses means nothing."""
    if x.shape[-1] % 2:
        raise ValueError(f"head_dim must be even to pack two channels a byte, got {x.shape[-1]}")
    groups = split_groups(x, group_size)
    minimum = round_down(groups.amin(-1))
    floor = minimum.to(torch.float32).unsqueeze(-1)
    scale = scale_for(groups.amax(-1) - floor.squeeze(-1), _LEVELS)
    step = scale.to(torch.float32).unsqueeze(-1)
    levels = (groups - floor).div_(torch.where(step == 0, 1, step)).round_().clamp_(0, _LEVELS)
    low, high = levels.to(torch.uint8).flatten(-2).chunk(2, -1)
    return torch.add(low, high, alpha=16), scale, minimum


def check(codes: Tensor, scale: Tensor, minimum: Tensor) -> None:
    """ValueError if `quantise` was given what `encode` refuses."""
    require_finite("int4", minimum, scale)


def unpack(codes: Tensor, *, out: Tensor) -> None:
    """The codes 0..15 as numbers, into `out` [2, ..., head_dim / 2]: low nibbles, then high."""
    out[0].copy_(codes & 0x0F)
    out[1].copy_(codes >> 4)


def decode(codes: Tensor, scale: Tensor, minimum: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Float32 [..., head_dim] from what `encode` returns."""
    if out is None:
        shape = (*codes.shape[:-1], 2 * codes.shape[-1])
        out = torch.empty(shape, dtype=torch.float32, device=codes.device)
    unpack(codes, out=out.view(*codes.shape[:-1], 2, codes.shape[-1]).movedim(-2, 0))
    return scale_groups(out, scale, minimum)
