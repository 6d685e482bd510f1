"""Triton kernels: attention over rows that are decoded in registers, and the merge of splits.

Knows how the codecs of `cachefmt` lay codes, scales and minima; `triton_attention` launches.

A row is handled as two halves of its channels, because INT4 packs channel j and channel
j + head_dim / 2 into byte j: each byte is loaded once, and nothing is interleaved. A half is
GROUPS runs of GROUP channels that share a scale, padded to powers of two: channel
g * GROUP + lane of a half lies at g * LANES + lane of a tile. What the padding holds is never
used: queries are zero there, and outputs are not stored.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _load_halves(
    stored,
    strides,
    head,
    row,
    is_row,
    dtype: tl.constexpr,
    TIER: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
):
    """Both halves [rows, GROUPS * LANES] of rows of one head, decoded in float32, as dtype.

    stored: (codes, scale or None, minimum or None); strides: (codes' row, head; scale's and
    minimum's row, head). TIER says how channels lie in the codes.
    """
    codes, scale, minimum = stored
    row_stride, head_stride, scale_row_stride, scale_head_stride = strides
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    ROWS: tl.constexpr = row.shape[0]
    group = tl.arange(0, GROUPS)[None, :, None]
    lane = tl.arange(0, LANES)[None, None, :]
    channel = group * GROUP + lane
    inside = is_row[:, None, None] & (lane < GROUP) & (channel < HALF)
    code = codes + head * head_stride + row[:, None, None] * row_stride + channel
    if TIER == "INT4":
        packed = tl.load(code, mask=inside, other=0)
        low = packed & 0x0F
        high = packed >> 4
    else:
        low = tl.load(code, mask=inside, other=0)
        high = tl.load(code + HALF, mask=inside & (channel + HALF < HEAD_DIM), other=0)
    if scale is not None:
        at = head * scale_head_stride + row[:, None, None] * scale_row_stride
        low_at = at + group * GROUP // CHANNELS_PER_SCALE
        high_at = at + (group * GROUP + HALF) // CHANNELS_PER_SCALE
        has_low = is_row[:, None, None] & (group * GROUP < HALF)
        has_high = has_low & (group * GROUP + HALF < HEAD_DIM)
        low = low.to(tl.float32) * tl.load(scale + low_at, mask=has_low, other=0).to(tl.float32)
        high = high.to(tl.float32) * tl.load(scale + high_at, mask=has_high, other=0).to(tl.float32)
        if minimum is not None:
            low += tl.load(minimum + low_at, mask=has_low, other=0).to(tl.float32)
            high += tl.load(minimum + high_at, mask=has_high, other=0).to(tl.float32)
    low = tl.reshape(low.to(dtype), [ROWS, GROUPS * LANES])
    high = tl.reshape(high.to(dtype), [ROWS, GROUPS * LANES])
    return low, high


# Compiled once for all numbers of queries and rows, not again when 16 divides one or it is 1.
@triton.jit(do_not_specialize=["queries", "rows"])
def attend_kernel(
    query,
    key,
    value,
    bias,
    output,
    lse,
    key_strides,
    value_strides,
    queries,
    rows,
    rows_per_split,
    scaling,
    TIER: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from a tile of queries of one head to one split of the rows.

    Grid: (tiles of queries, kv_heads, splits). query [kv_heads, queries, HEAD_DIM] contiguous;
    key, value: see `_load_halves`; bias float32 [rows] or None. Writes output
    [splits, kv_heads, queries, HEAD_DIM] and lse [splits, kv_heads, queries], float32, of each
    split by itself.
    """
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    CHANNELS: tl.constexpr = GROUPS * LANES
    dtype: tl.constexpr = query.dtype.element_ty
    head = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2).to(tl.int64)

    place = tl.arange(0, CHANNELS)
    channel = place // LANES * GROUP + place % LANES
    in_low = (place % LANES < GROUP) & (channel < HALF)
    in_high = in_low & (channel + HALF < HEAD_DIM)
    index = tl.program_id(0).to(tl.int64) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    is_query = index < queries
    at = ((head * queries + index) * HEAD_DIM)[:, None] + channel[None, :]
    low_mask = is_query[:, None] & in_low[None, :]
    high_mask = is_query[:, None] & in_high[None, :]
    query_low = tl.load(query + at, mask=low_mask, other=0)
    query_high = tl.load(query + at + HALF, mask=high_mask, other=0)

    # Scores in units of log2, so that exp2, the cheaper one, serves.
    highest = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    output_low = tl.zeros([BLOCK_QUERIES, CHANNELS], tl.float32)
    output_high = tl.zeros([BLOCK_QUERIES, CHANNELS], tl.float32)
    first = split * rows_per_split
    for start in range(first, tl.minimum(first + rows_per_split, rows), BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        is_row = row < rows
        key_low, key_high = _load_halves(
            key, key_strides, head, row, is_row, dtype,
            TIER, HEAD_DIM, GROUP, GROUPS, LANES, CHANNELS_PER_SCALE,
        )  # fmt: skip
        scores = tl.dot(query_low, tl.trans(key_low), input_precision=PRECISION)
        scores = tl.dot(query_high, tl.trans(key_high), scores, input_precision=PRECISION)
        scores *= scaling * LOG2_E
        if bias is not None:
            scores += tl.load(bias + row, mask=is_row, other=0)[None, :] * LOG2_E
        scores = tl.where(is_row[None, :], scores, float("-inf"))

        higher = tl.maximum(highest, tl.max(scores, 1))
        # -inf - -inf is NaN: a query that has seen nothing yet keeps weights of exp2(-inf) = 0.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(scores - reference[:, None])
        decay = tl.exp2(highest - reference)
        total = total * decay + tl.sum(weight, 1)
        highest = higher

        value_low, value_high = _load_halves(
            value, value_strides, head, row, is_row, dtype,
            TIER, HEAD_DIM, GROUP, GROUPS, LANES, CHANNELS_PER_SCALE,
        )  # fmt: skip
        weight = weight.to(dtype)
        output_low = tl.dot(
            weight, value_low, output_low * decay[:, None], input_precision=PRECISION
        )
        output_high = tl.dot(
            weight, value_high, output_high * decay[:, None], input_precision=PRECISION
        )

    total = tl.where(total == 0, 1.0, total)
    slot = (split * tl.num_programs(1) + head) * queries + index
    tl.store(lse + slot, (highest + tl.log2(total)) * LN_2, mask=is_query)
    at = (slot * HEAD_DIM)[:, None] + channel[None, :]
    tl.store(output + at, output_low / total[:, None], mask=low_mask)
    tl.store(output + at + HALF, output_high / total[:, None], mask=high_mask)


@triton.jit(do_not_specialize=["splits"])
def merge_kernel(
    outputs,
    lses,
    output,
    lse,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Merge what one query got from each split, as `batch.kv.attention.merge` does.

    Grid: (queries of all heads,). outputs [splits, queries, HEAD_DIM] and lses [splits, queries]
    to output [queries, HEAD_DIM] and lse [queries], all float32 and contiguous.
    """
    query = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, BLOCK_SPLITS)
    channel = tl.arange(0, BLOCK_CHANNELS)
    slot = split * tl.num_programs(0).to(tl.int64) + query
    is_split = split < splits
    partial_lse = tl.load(lses + slot, mask=is_split, other=float("-inf"))
    highest = tl.max(partial_lse, 0)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    weight = tl.exp(partial_lse - reference)
    total = tl.sum(weight, 0)
    total = tl.where(total == 0, 1.0, total)
    tl.store(lse + query, highest + tl.log(total))
    mask = is_split[:, None] & (channel < HEAD_DIM)[None, :]
    partial = tl.load(outputs + slot[:, None] * HEAD_DIM + channel[None, :], mask=mask, other=0)
    merged = tl.sum(partial * weight[:, None], 0) / total
    tl.store(output + query * HEAD_DIM + channel, merged, mask=channel < HEAD_DIM)
