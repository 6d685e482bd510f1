"""What attention alone takes over stored rows, against torch's own over the same rows decoded."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from batch.evaluation.bench.decoding import random_prefix
from batch.evaluation.bench.workload import Measured, Workload
from batch.evaluation.measuring import Work, ratio, side_by_side
from batch.kv import Prefix, is_for_kernel
from batch.kv.attention import attend, fold
from cachefmt import CacheFile
from cachefmt.header import Shape
from cachefmt.layout import kv_bytes
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

BLOCK_SAMPLES = 4
"""Of a block: 2,304 queries in the shape of seven billion."""
CALLS = 20
"""Of attention of few queries in a row, whose mean counts: one alone is shorter than the wait."""
FEW_QUERIES = (1, 24)
"""Of a decode step, and of a question."""
MANY_ROWS = (8192, 32_768, 131_072)


def measure_attention(workload: Workload, repeats: int) -> Measured:
    """A block of a prefill over INT4 rows; on a GPU, few queries over rows of each tier too."""
    shape = _one_layer(workload)
    queries = BLOCK_SAMPLES * shape.rows * shape.columns
    taken = _compare(workload, shape, Tier.INT4, workload.size.rows, queries, repeats, calls=1)
    figures: dict[str, Any] = {"queries": queries, "rows": workload.size.rows, **taken}
    if workload.device == "cuda":
        figures["few_queries"] = measure_few_queries(workload, repeats)
    return {"attention_block": ratio(taken["tiered_seconds"], taken["sdpa_seconds"])}, figures


def measure_few_queries(
    workload: Workload, repeats: int, row_counts: Sequence[int] = MANY_ROWS
) -> list[dict[str, Any]]:
    """Few queries over rows of each tier, as long as a decode step or a question has."""
    shape = _one_layer(workload)
    return [
        _few_queries(workload, shape, tier, rows, count, repeats)
        for rows in row_counts
        for tier in STORED_TIERS
        for count in FEW_QUERIES
    ]


def _one_layer(workload: Workload) -> Shape:
    with CacheFile.open(workload.films[0].cache) as cache:
        return replace(cache.header.shape, layers=1, index_layers=())


def _few_queries(
    workload: Workload, shape: Shape, tier: Tier, rows: int, queries: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds each way, and how fast ours reads its rows."""
    taken = _compare(workload, shape, tier, rows, queries, repeats, calls=CALLS)
    tiered_s, sdpa_s = min(taken["tiered_seconds"]), min(taken["sdpa_seconds"])
    stored = kv_bytes(replace(shape, tokens=token_counts({tier: rows})))
    return {
        "tier": tier.name,
        "rows": rows,
        "queries": queries,
        "tiered_ms": 1e3 * tiered_s,
        "sdpa_ms": 1e3 * sdpa_s,
        "gb_per_s": stored / tiered_s / 1e9,
    }


@torch.inference_mode()
def _compare(
    workload: Workload,
    shape: Shape,
    tier: Tier,
    rows: int,
    queries: int,
    repeats: int,
    *,
    calls: int,
) -> dict[str, list[float]]:
    """Seconds of attention of one layer from so many queries a head, ours and torch's."""
    device, dtype = workload.device, getattr(torch, workload.dtype)
    heads = workload.family.config.get_text_config(decoder=True).num_attention_heads
    prefix = random_prefix(shape, {tier: rows}, device)
    decoded: Any = prefix.to_dynamic_cache(dtype).layers[0]
    key, value = decoded.keys.contiguous(), decoded.values.contiguous()
    generator = torch.Generator(device).manual_seed(1)
    size = (1, heads, queries, shape.head_dim)
    query = torch.randn(size, generator=generator, device=device).to(dtype)
    folded = fold(query, shape.heads).contiguous()
    ways: dict[str, Work] = {
        "tiered_seconds": _few_attend(query, prefix)
        if is_for_kernel(workload.family.language_model, queries, dtype, torch.device(device))
        else partial(_attend, folded, prefix),
        "sdpa_seconds": partial(scaled_dot_product_attention, folded[None], key, value),
    }

    def several(way: Work) -> None:
        for _ in range(calls):
            way()

    works: dict[str, Work] = {name: partial(several, way) for name, way in ways.items()}
    side_by_side(works, 1)  # the first call compiles
    taken = side_by_side(works, repeats)
    return {name: [each / calls for each in seconds] for name, seconds in taken.items()}


def _attend(folded: Tensor, prefix: Prefix) -> None:
    parts = [part for part in prefix.layer(0) if len(part)]
    attend(folded, parts, scaling=folded.shape[-1] ** -0.5)


def _few_attend(query: Tensor, prefix: Prefix) -> Work:
    """Attention of few queries as a decode step has it: the kernel's own, with a suffix beside."""
    from batch.kv.triton_attention import Suffix, attend_few, prepare

    shape, device = prefix.shape, query.device
    rows = prepare(prefix.layer(0), kv_heads=shape.heads, head_dim=shape.head_dim, device=device)
    new = query.shape[2]
    own = torch.zeros(1, shape.heads, new, shape.head_dim, dtype=query.dtype, device=device)
    padding = torch.zeros(1, dtype=torch.int32, device=device)
    suffix = Suffix(own, own, torch.arange(new, device=device), padding)
    return partial(attend_few, query, rows, suffix, scaling=shape.head_dim**-0.5)
