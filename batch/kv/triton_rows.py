"""Stored rows in a Triton kernel: loaded as they lie, decoded in registers.

Knows how the codecs of `cachefmt` lay codes, scales and minima; knows nothing of attention.

A row is handled as two halves of its channels, because INT4 packs channel j and channel
j + head_dim / 2 into byte j: each byte is loaded once, and nothing is interleaved. A half is
GROUPS runs of GROUP channels that share a scale, padded to powers of two: channel
g * GROUP + lane of a half lies at g * LANES + lane of a tile.

Codes become float16 without a conversion: byte b in the mantissa of 1024 is the number 1024 + b,
and a fused multiply-add takes the 1024 off, two channels at a time. Source of the trick: Kim et
al., "Who Says Elephants Can't Run" (arXiv 2211.10017).
"""

import triton
import triton.language as tl

# $4: 4 bytes; then, as pairs of float16, the scale and the minimum of their low and their high
# nibbles. 0x64 is the upper byte of 1024; 0x3C00 is 1, 0xE400 is -1024.
DECODE_INT4 = tl.constexpr("""{
.reg .b32 low, high, upper, one, offset;
mov.b32 upper, 0x64646464;
mov.b32 one, 0x3C003C00;
mov.b32 offset, 0xE400E400;
and.b32 low, $4, 0x0F0F0F0F;
shr.u32 high, $4, 4;
and.b32 high, high, 0x0F0F0F0F;
prmt.b32 $0, low, upper, 0x4140;
prmt.b32 $1, low, upper, 0x4342;
prmt.b32 $2, high, upper, 0x4140;
prmt.b32 $3, high, upper, 0x4342;
fma.rn.f16x2 $0, $0, one, offset;
fma.rn.f16x2 $1, $1, one, offset;
fma.rn.f16x2 $2, $2, one, offset;
fma.rn.f16x2 $3, $3, one, offset;
fma.rn.f16x2 $0, $0, $5, $7;
fma.rn.f16x2 $1, $1, $6, $8;
fma.rn.f16x2 $2, $2, $9, $11;
fma.rn.f16x2 $3, $3, $10, $12;
}""")
# $2: 4 bytes; $3, $4: their scale. Plus 128 they have no sign; 0xE480 is -1152.
DECODE_INT8 = tl.constexpr("""{
.reg .b32 code, upper, one, offset;
mov.b32 upper, 0x64646464;
mov.b32 one, 0x3C003C00;
mov.b32 offset, 0xE480E480;
xor.b32 code, $2, 0x80808080;
prmt.b32 $0, code, upper, 0x4140;
prmt.b32 $1, code, upper, 0x4342;
fma.rn.f16x2 $0, $0, one, offset;
fma.rn.f16x2 $1, $1, one, offset;
mul.rn.f16x2 $0, $0, $3;
mul.rn.f16x2 $1, $1, $4;
}""")


@triton.jit
def load_scales(
    stored,
    row_scales,
    head,
    row,
    is_row,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
):
    """Scales of both halves, then minima of both, [rows, GROUPS, 1]; something where none are.

    Apart from the codes, so that the next rows' can be asked for while these are worked on:
    Triton 3.7 copies nothing ahead by itself that is narrower than 4 bytes.
    """
    _, scale, minimum = stored
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    # Triton 3.7 compiles what stands behind a return, too.
    if scale is None:
        low_scale = tl.zeros([1, 1, 1], tl.float16)
        high_scale, low_minimum, high_minimum = low_scale, low_scale, low_scale
    else:
        group = tl.arange(0, GROUPS)[None, :, None]
        SCALES: tl.constexpr = HEAD_DIM // CHANNELS_PER_SCALE
        at = head * SCALES + row.to(tl.int64)[:, None, None] * row_scales
        low_at = at + group * GROUP // CHANNELS_PER_SCALE
        high_at = at + (group * GROUP + HALF) // CHANNELS_PER_SCALE
        has_low = is_row[:, None, None] & (group * GROUP < HALF)
        has_high = has_low & (group * GROUP + HALF < HEAD_DIM)
        low_scale = tl.load(scale + low_at, mask=has_low, other=0)
        high_scale = tl.load(scale + high_at, mask=has_high, other=0)
        if minimum is None:
            low_minimum = low_scale
            high_minimum = high_scale
        else:
            low_minimum = tl.load(minimum + low_at, mask=has_low, other=0)
            high_minimum = tl.load(minimum + high_at, mask=has_high, other=0)
    return low_scale, high_scale, low_minimum, high_minimum


@triton.jit
def load_halves(
    codes,
    scales,
    row_codes,
    head,
    row,
    is_row,
    dtype: tl.constexpr,
    TIER: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    IN_PAIRS: tl.constexpr,
):
    """Both halves [rows, GROUPS * LANES] of rows of one head, decoded, as dtype.

    codes: contiguous, row_codes numbers in a row of all heads; TIER says how channels lie in
    them. scales: of `load_scales`. IN_PAIRS: quantised ones by the machine's instructions above,
    for dtype float16; else in float32, rounded once.
    """
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    ROWS: tl.constexpr = row.shape[0]
    group = tl.arange(0, GROUPS)[None, :, None]
    lane = tl.arange(0, LANES)[None, None, :]
    channel = group * GROUP + lane
    inside = is_row[:, None, None]
    if LANES > GROUP:
        inside = inside & (lane < GROUP)
    if GROUPS * GROUP > HALF:
        inside = inside & (channel < HALF)
    first = codes + row.to(tl.int64)[:, None, None] * row_codes
    low_scale, high_scale, low_minimum, high_minimum = scales
    if TIER == "INT4":
        packed = tl.load(first + head * HALF + channel, mask=inside, other=0)
        if IN_PAIRS:
            low, high = tl.inline_asm_elementwise(
                DECODE_INT4, "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r",
                [packed, low_scale, low_minimum, high_scale, high_minimum],
                dtype=(tl.float16, tl.float16), is_pure=True, pack=4,
            )  # fmt: skip
        else:
            low = (packed & 0x0F).to(tl.float32) * low_scale.to(tl.float32)
            low += low_minimum.to(tl.float32)
            high = (packed >> 4).to(tl.float32) * high_scale.to(tl.float32)
            high += high_minimum.to(tl.float32)
    else:
        code = first + head * HEAD_DIM + channel
        in_high = inside
        if GROUPS * GROUP + HALF > HEAD_DIM:
            in_high = inside & (channel + HALF < HEAD_DIM)
        low = tl.load(code, mask=inside, other=0)
        high = tl.load(code + HALF, mask=in_high, other=0)
        if TIER == "INT8":
            if IN_PAIRS:
                low = tl.inline_asm_elementwise(
                    DECODE_INT8, "=r,=r,r,r,r", [low, low_scale],
                    dtype=tl.float16, is_pure=True, pack=4,
                )  # fmt: skip
                high = tl.inline_asm_elementwise(
                    DECODE_INT8, "=r,=r,r,r,r", [high, high_scale],
                    dtype=tl.float16, is_pure=True, pack=4,
                )  # fmt: skip
            else:
                low = low.to(tl.float32) * low_scale.to(tl.float32)
                high = high.to(tl.float32) * high_scale.to(tl.float32)
    low = tl.reshape(low.to(dtype), [ROWS, GROUPS * LANES])
    high = tl.reshape(high.to(dtype), [ROWS, GROUPS * LANES])
    return low, high
