"""Triton kernels: attention of few queries over stored rows and suffixes, and the merge of splits.

Knows how softmax is cut into splits; `triton_attention` launches.

A row comes as two halves of its channels, in runs of padded length: see `triton_rows`. What the
padding holds is never used: queries are zero there, and outputs are not stored.
"""

import triton
import triton.language as tl

from batch.kv.triton_rows import load_halves, load_scales

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _attend_rows(
    query,
    query_at,
    is_query,
    scaling,
    key,
    value,
    bias,
    row_codes,
    row_scales,
    head,
    first,
    stop,
    sight,
    outputs,
    lses,
    slot,
    TIER: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
    IN_PAIRS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from a tile of queries to rows first..stop of one head, and store what comes out.

    query_at, slot: where each query of the tile begins in `query`, and its place in `outputs`
    [places, HEAD_DIM] and `lses` [places]. sight: (the first row that is seen, the last one that
    each query sees), or None.
    """
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    CHANNELS: tl.constexpr = GROUPS * LANES
    given: tl.constexpr = query.dtype.element_ty
    # float16 holds decoded numbers more exactly than bfloat16; only a query may exceed it.
    in_half: tl.constexpr = (key[1] is not None) and (given != tl.float32)
    dtype: tl.constexpr = tl.float16 if in_half else given

    place = tl.arange(0, CHANNELS)
    channel = place // LANES * GROUP + place % LANES
    in_low = (place % LANES < GROUP) & (channel < HALF)
    in_high = in_low & (channel + HALF < HEAD_DIM)
    low_mask = is_query[:, None] & in_low[None, :]
    high_mask = is_query[:, None] & in_high[None, :]
    at = query_at[:, None] + channel[None, :]
    query_low = tl.load(query + at, mask=low_mask, other=0)
    query_high = tl.load(query + at + HALF, mask=high_mask, other=0)
    # Scores in units of log2, so that exp2, the cheaper one, serves.
    factor = tl.full(is_query.shape, scaling * LOG2_E, tl.float32)
    if in_half and given != tl.float16:
        query_low = query_low.to(tl.float32)
        query_high = query_high.to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(query_low), 1), tl.max(tl.abs(query_high), 1))
        largest = tl.where(largest == 0, 1.0, largest)
        query_low = (query_low / largest[:, None]).to(tl.float16)
        query_high = (query_high / largest[:, None]).to(tl.float16)
        factor = factor * largest

    highest = tl.full(is_query.shape, float("-inf"), tl.float32)
    total = tl.zeros(is_query.shape, tl.float32)
    output_low = tl.zeros([is_query.shape[0], CHANNELS], tl.float32)
    output_high = tl.zeros([is_query.shape[0], CHANNELS], tl.float32)
    row = first + tl.arange(0, BLOCK_ROWS)
    key_scales = load_scales(
        key, row_scales, head, row, row < stop, HEAD_DIM, GROUP, GROUPS, CHANNELS_PER_SCALE
    )
    value_scales = load_scales(
        value, row_scales, head, row, row < stop, HEAD_DIM, GROUP, GROUPS, CHANNELS_PER_SCALE
    )
    for start in range(first, stop, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        is_row = row < stop
        later = row + BLOCK_ROWS
        later_key_scales = load_scales(
            key, row_scales, head, later, later < stop, HEAD_DIM, GROUP, GROUPS, CHANNELS_PER_SCALE
        )
        later_value_scales = load_scales(
            value, row_scales, head, later, later < stop,
            HEAD_DIM, GROUP, GROUPS, CHANNELS_PER_SCALE,
        )  # fmt: skip
        key_low, key_high = load_halves(
            key[0], key_scales, row_codes, head, row, is_row, dtype,
            TIER, HEAD_DIM, GROUP, GROUPS, LANES, IN_PAIRS,
        )  # fmt: skip
        scores = tl.dot(query_low, tl.trans(key_low), input_precision=PRECISION)
        scores = tl.dot(query_high, tl.trans(key_high), scores, input_precision=PRECISION)
        scores *= factor[:, None]
        if bias is not None:
            scores += tl.load(bias + row, mask=is_row, other=0)[None, :] * LOG2_E
        is_seen = is_row[None, :]
        if sight is not None:
            is_seen = is_seen & (row >= sight[0])[None, :] & (row[None, :] <= sight[1][:, None])
        scores = tl.where(is_seen, scores, float("-inf"))

        higher = tl.maximum(highest, tl.max(scores, 1))
        # -inf - -inf is NaN: a query that has seen nothing yet keeps weights of exp2(-inf) = 0.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(scores - reference[:, None])
        decay = tl.exp2(highest - reference)
        total = total * decay + tl.sum(weight, 1)
        highest = higher

        value_low, value_high = load_halves(
            value[0], value_scales, row_codes, head, row, is_row, dtype,
            TIER, HEAD_DIM, GROUP, GROUPS, LANES, IN_PAIRS,
        )  # fmt: skip
        weight = weight.to(dtype)
        output_low = tl.dot(
            weight, value_low, output_low * decay[:, None], input_precision=PRECISION
        )
        output_high = tl.dot(
            weight, value_high, output_high * decay[:, None], input_precision=PRECISION
        )
        key_scales = later_key_scales
        value_scales = later_value_scales

    total = tl.where(total == 0, 1.0, total)
    tl.store(lses + slot, (highest + tl.log2(total)) * LN_2, mask=is_query)
    at = (slot * HEAD_DIM)[:, None] + channel[None, :]
    tl.store(outputs + at, output_low / total[:, None], mask=low_mask)
    tl.store(outputs + at + HALF, output_high / total[:, None], mask=high_mask)


# Compiled once for all numbers of sequences, queries and rows, not again when 16 divides one or
# it is 1.
@triton.jit(
    do_not_specialize=[
        "batch",
        "new",
        "capacity",
        "prefix_splits",
        "own_splits",
        "rows_per_split",
    ]
)
def attend_kernel(
    query,
    query_strides,
    parts,
    cuts,
    own,
    outputs,
    lses,
    batch,
    new,
    capacity,
    prefix_splits,
    own_splits,
    rows_per_split,
    scaling,
    TIERS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    QUERY_GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS_PER_SCALE: tl.constexpr,
    RAW_LANES: tl.constexpr,
    IN_PAIRS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from a tile of queries to one split of a part's rows, or of a sequence's suffix.

    A query of a key/value head is numbered as `batch.kv.attention.fold` does: by sequence, head
    of the group, new column.

    Grid: (prefix_splits * tiles of all queries, then batch * own_splits * tiles of a sequence's
    queries; kv_heads).

    Args:
        query: [batch, heads, new, HEAD_DIM], of query_strides but for the last axis.
        parts: of each of TIERS (key, value, bias float32 [rows] or None), where a key or value is
            (codes, scale or None, minimum or None), contiguous.
        cuts: int32 [parts, 2], the first split and the number of rows of each part.
        own: key and value [batch, kv_heads, capacity, HEAD_DIM], int64 [new] with the columns of
            the queries in them, and int32 [batch] with the columns of padding before each suffix.
        outputs: float32 [prefix_splits + own_splits, kv_heads, queries, HEAD_DIM], of each split
            by itself; lses: the same without the last axis.
        rows_per_split: a multiple of BLOCK_ROWS.
    """
    HALF: tl.constexpr = (HEAD_DIM + 1) // 2
    head = tl.program_id(1)
    program = tl.program_id(0)
    each = QUERY_GROUP * new
    queries = batch * each
    tiles = tl.cdiv(queries, BLOCK_QUERIES)
    own_tiles = tl.cdiv(each, BLOCK_QUERIES)
    rest = program - prefix_splits * tiles
    is_own = rest >= 0
    sequence = rest // (own_splits * own_tiles)
    local = tl.where(is_own, rest % own_tiles, program % tiles) * BLOCK_QUERIES
    local += tl.arange(0, BLOCK_QUERIES)
    is_query = local < tl.where(is_own, each, queries)
    index = local + tl.where(is_own, sequence * each, 0)
    batch_stride, head_stride, new_stride = query_strides
    query_at = (index // each).to(tl.int64) * batch_stride
    query_at += (head * QUERY_GROUP + index // new % QUERY_GROUP) * head_stride
    query_at += index % new * new_stride
    split = tl.where(is_own, prefix_splits + rest // own_tiles % own_splits, program // tiles)
    slot = (split.to(tl.int64) * KV_HEADS + head) * queries + index
    if is_own:
        own_key, own_value, column, padding = own
        past = tl.load(column).to(tl.int32)
        first = (split - prefix_splits) * rows_per_split
        start = (sequence.to(tl.int64) * KV_HEADS + head) * capacity * HEAD_DIM
        _attend_rows(
            query, query_at, is_query, scaling,
            (own_key + start, None, None), (own_value + start, None, None), None, HEAD_DIM, 0, 0,
            first, tl.minimum(first + rows_per_split, past + new),
            (tl.load(padding + sequence), past + local % new), outputs, lses, slot,
            "FP16", HEAD_DIM, HALF, 1, RAW_LANES, HEAD_DIM, False, BLOCK_ROWS, PRECISION,
        )  # fmt: skip
    for part in tl.static_range(len(TIERS)):
        key, value, bias = parts[part]
        first_split = tl.load(cuts + 2 * part)
        rows = tl.load(cuts + 2 * part + 1)
        first = (split - first_split) * rows_per_split
        # Of no split of its own: the loop over rows is empty, and another part stores.
        if (program < prefix_splits * tiles) & (first >= 0) & (first < rows):
            stop = tl.minimum(first + rows_per_split, rows)
            if key[1] is None:
                _attend_rows(
                    query, query_at, is_query, scaling, key, value, bias,
                    KV_HEADS * HEAD_DIM, 0, head, first, stop, None, outputs, lses, slot,
                    TIERS[part], HEAD_DIM, HALF, 1, RAW_LANES, HEAD_DIM, False, BLOCK_ROWS,
                    PRECISION,
                )  # fmt: skip
            else:
                _attend_rows(
                    query, query_at, is_query, scaling, key, value, bias,
                    KV_HEADS * (HALF if TIERS[part] == "INT4" else HEAD_DIM),
                    KV_HEADS * (HEAD_DIM // CHANNELS_PER_SCALE),
                    head, first, stop, None, outputs, lses, slot,
                    TIERS[part], HEAD_DIM, GROUP, GROUPS, LANES, CHANNELS_PER_SCALE, IN_PAIRS,
                    BLOCK_ROWS, PRECISION,
                )  # fmt: skip


@triton.jit(do_not_specialize=["splits", "new"])
def merge_kernel(
    outputs,
    lses,
    output,
    lse,
    splits,
    new,
    QUERY_GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Merge what one query got from each split, as `batch.kv.attention.merge` does.

    Grid: (queries, kv_heads). outputs, lses as of `attend_kernel`; output
    [batch, new, heads, HEAD_DIM] in its own dtype; lse float32 [batch, heads, new].
    """
    index, head = tl.program_id(0), tl.program_id(1)
    queries, kv_heads = tl.num_programs(0), tl.num_programs(1)
    channel = tl.arange(0, BLOCK_CHANNELS)
    is_channel = channel < HEAD_DIM
    highest = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    merged = tl.zeros([BLOCK_CHANNELS], tl.float32)
    for first in range(0, splits, BLOCK_SPLITS):
        split = first + tl.arange(0, BLOCK_SPLITS)
        slot = (split.to(tl.int64) * kv_heads + head) * queries + index
        part_lse = tl.load(lses + slot, mask=split < splits, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(part_lse, 0))
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp(part_lse - reference)
        decay = tl.exp(highest - reference)
        # What nobody saw is not read: nothing may have been written there.
        mask = (weight > 0)[:, None] & is_channel[None, :]
        part = tl.load(outputs + slot[:, None] * HEAD_DIM + channel[None, :], mask=mask, other=0)
        merged = merged * decay + tl.sum(part * weight[:, None], 0)
        total = total * decay + tl.sum(weight, 0)
        highest = higher
    total = tl.where(total == 0, 1.0, total)
    sequence, asking = index // (QUERY_GROUP * new), head * QUERY_GROUP + index // new % QUERY_GROUP
    heads = kv_heads * QUERY_GROUP
    tl.store(lse + (sequence * heads + asking) * new + index % new, highest + tl.log(total))
    at = ((sequence * new + index % new) * heads + asking).to(tl.int64) * HEAD_DIM
    tl.store(output + at + channel, (merged / total).to(output.dtype.element_ty), mask=is_channel)
