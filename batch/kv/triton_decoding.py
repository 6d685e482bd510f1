"""Rows decoded into a buffer by one Triton launch: for many queries, which then share the buffer.

Knows the encodings of `cachefmt.codecs`; imports Triton, so it is itself imported only where it is
used. The codecs' own `decode` is the reference.

Run so far: interpreted on the CPU and compiled for sm_80, sm_90 and sm_100; not yet on a GPU.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_NUMBERS = 1024
"""Codes of a program: eight for each of its 128 threads, which load them at once, and store eight
numbers of bfloat16 at once."""


def decode_rows(stored: Sequence[Tensor], out: Tensor) -> None:
    """Decode rows of a tier with scales, in float32, and round them once to the dtype of `out`.

    Args:
        stored: parts [rows, heads, ...] of INT8 (codes, scale) or INT4 (codes, scale, minimum),
            contiguous.
        out: [rows, heads, head_dim], contiguous, on the same device.
    """
    codes, scale, *minimum = stored
    if any(not part.is_contiguous() for part in (*stored, out)):
        raise ValueError("rows to be decoded are not contiguous")
    head_dim, groups = out.shape[-1], scale.shape[-1]
    count = codes.numel()
    if not count:
        return
    # Triton launches on the current device, which need not be that of the rows.
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]  # torch 2.13
        _decode[(triton.cdiv(count, _NUMBERS),)](
            codes,
            scale,
            minimum[0] if minimum else scale,
            out,
            count,
            HEAD_DIM=head_dim,
            CHANNELS_PER_SCALE=head_dim // groups,
            IS_PACKED=bool(minimum),
            NUMBERS=_NUMBERS,
        )


@triton.jit
def _decode(
    codes,
    scale,
    minimum,
    out,
    count,
    HEAD_DIM: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
    IS_PACKED: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Codes from one row and head to the next; of INT4 a byte holds channels j and j + half."""
    at = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    inside = at < count
    groups: tl.constexpr = HEAD_DIM // CHANNELS_PER_SCALE
    code = tl.load(codes + at, mask=inside, other=0)
    if IS_PACKED:
        half: tl.constexpr = HEAD_DIM // 2
        head, channel = at // half, at % half
        for upper in tl.static_range(2):
            level = (code >> 4) if upper else (code & 15)
            own = channel + upper * half
            group = head * groups + own // CHANNELS_PER_SCALE
            step = tl.load(scale + group, mask=inside, other=0).to(tl.float32)
            least = tl.load(minimum + group, mask=inside, other=0).to(tl.float32)
            number = level.to(tl.float32) * step + least
            tl.store(out + head * HEAD_DIM + own, number.to(out.dtype.element_ty), mask=inside)
    else:
        head, channel = at // HEAD_DIM, at % HEAD_DIM
        group = head * groups + channel // CHANNELS_PER_SCALE
        step = tl.load(scale + group, mask=inside, other=0).to(tl.float32)
        number = code.to(tl.float32) * step
        tl.store(out + at, number.to(out.dtype.element_ty), mask=inside)
