"""FP16: the numbers of the model run as they are; F16, BF16 or F32."""

import torch
from torch import Tensor


def encode(x: Tensor, group_size: int) -> tuple[Tensor]:
    """Nothing is changed, the group size is of no effect; ValueError for NaN or infinity."""
    check(x)
    return (x,)


def quantise(x: Tensor, group_size: int) -> tuple[Tensor]:
    """As `encode`, without the check."""
    return (x,)


def check(x: Tensor) -> None:
    """ValueError for NaN or infinity."""
    if not bool(x.isfinite().all()):
        raise ValueError(f"fp16: got NaN, or numbers that {x.dtype} cannot hold")


def decode(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The same numbers in float32; exact."""
    return x.to(torch.float32) if out is None else out.copy_(x)
