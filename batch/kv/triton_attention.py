"""Attention of few queries over stored rows and suffixes, in two launches of Triton kernels.

Knows how to cut the work into programs and launch `triton_kernels`; imports Triton, so it is
itself imported only where it is used. The torch path of `attention` is the reference.

Run so far: interpreted on the CPU with Triton 3.7.1, and compiled for sm_80, sm_90 and sm_100.
Tile sizes and splits are chosen by what the compiler reports (registers, spills, loads), not by
measured time.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs

from batch.kv.rows import StoredRows
from batch.kv.triton_kernels import attend_kernel, merge_kernel
from cachefmt.tensors import TORCH_DTYPES

_ROWS_STEP = 64
"""Rows of a split are a multiple of it, and so of the rows of any tile."""

_LEAST_ROWS_PER_SPLIT = 128
"""A split writes one float32 row a query: with fewer rows that costs more than it hides."""

_LEAST_GROUPS = 4
"""Scales loaded for half a row: with 64 rows one for each of the 256 threads of the largest tile.
Triton 3.7 loads a tile with fewer scales than threads again wherever it is used, which spilled.
"""

_PROGRAMS_PER_PROCESSOR = 4
"""Programs on each multiprocessor, so that some compute while others wait for memory."""

_MERGED_AT_A_TIME = 32
"""Splits that a program of `merge_kernel` holds in registers."""


class Suffix(NamedTuple):
    """What follows the prefix in each sequence, and where the queries stand in it."""

    key: Tensor
    """[batch, kv_heads, capacity, head_dim], contiguous, in the dtype of the queries."""
    value: Tensor
    columns: Tensor
    """int64 [new], consecutive; no query sees a later column than its own."""
    padding: Tensor
    """int32 [batch]: columns that no query of the sequence sees, from the left."""


class PreparedRows(NamedTuple):
    """Arguments of the kernel that are the same for all queries of a layer."""

    parts: tuple[tuple[Any, ...], ...]
    cuts: Tensor | None
    splits: int
    rows_per_split: int
    constants: dict[str, Any]


def prepare(
    rows: Sequence[StoredRows],
    *,
    kv_heads: int,
    head_dim: int,
    device: torch.device,
    splits: int | None = None,
) -> PreparedRows:
    """Lay out the work over the rows of a layer, which attention only reads from then on.

    Args:
        rows: on the device, contiguous, any number of each tier.
        splits: programs for each key/value head that share the rows; None = enough to fill the
            device. The result does not depend on it but for rounding.

    Raises:
        ValueError: tensors that do not fit each other, the heads or the device.
    """
    rows = [part for part in rows if len(part)]
    for part in rows:
        _check(part, kv_heads, head_dim, device)
    total = sum(len(part) for part in rows)
    wanted = _splits_to_fill(device, kv_heads) if splits is None else splits
    least = _LEAST_ROWS_PER_SPLIT if splits is None else 1
    rows_per_split = _rounded_up(max(least, triton.cdiv(total, wanted)), _ROWS_STEP)
    counts = tuple(len(part) for part in rows)
    layouts = [_layout(parts, head_dim) for part in rows for parts in (part.key, part.value)]
    scaled = [layout for layout in layouts if layout != _layout((None,), head_dim)]
    if any(layout != scaled[0] for layout in scaled):
        raise ValueError("groups of different sizes in one layer")
    return PreparedRows(
        parts=tuple((_three(part.key), _three(part.value), part.bias) for part in rows),
        cuts=_cuts(counts, rows_per_split, device) if rows else None,
        splits=sum(triton.cdiv(count, rows_per_split) for count in counts),
        rows_per_split=rows_per_split,
        constants={
            "TIERS": tuple(part.tier.name for part in rows),
            "KV_HEADS": kv_heads,
            # Tensor cores take no fewer than 16 channels.
            "RAW_LANES": max(16, triton.next_power_of_2((head_dim + 1) // 2)),
            **(scaled[0] if scaled else _layout((None,), head_dim)),
        },
    )


def attend_few(
    query: Tensor, rows: PreparedRows, suffix: Suffix, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend from each sequence to all stored rows and to what it sees of its own suffix.

    Nothing here waits for the device or depends on numbers there, so a CUDA graph can hold it.

    Args:
        query: float32, bfloat16 or float16 [batch, heads, new, head_dim]. Raw keys and values are
            multiplied in its dtype, quantised ones in float16 (float32 if it is), with float32
            sums.

    Returns:
        output [batch, new, heads, head_dim] in the dtype of the query, and the log-sum-exp of all
        scores, float32 [batch, heads, new]; 0 and -inf for a query that sees nothing.
    """
    batch, heads, new, head_dim = query.shape
    query = query if query.stride(-1) == 1 else query.contiguous()
    kv_heads, capacity = suffix.key.shape[1:3]
    group = heads // kv_heads
    block_queries, block_rows, launch = _tile(batch * group * new, head_dim, query.dtype)
    own_splits = triton.cdiv(capacity, rows.rows_per_split)
    splits, queries = rows.splits + own_splits, batch * group * new
    programs = rows.splits * triton.cdiv(queries, block_queries)
    programs += batch * own_splits * triton.cdiv(group * new, block_queries)
    device = query.device
    parts = torch.empty(splits, kv_heads, queries, head_dim, dtype=torch.float32, device=device)
    part_lses = torch.empty(splits, kv_heads, queries, dtype=torch.float32, device=device)
    output = torch.empty(batch, new, heads, head_dim, dtype=query.dtype, device=device)
    lse = torch.empty(batch, heads, new, dtype=torch.float32, device=device)
    # Triton launches on the current device, which need not be the query's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch 2.13
        attend_kernel[(programs, kv_heads)](
            query,
            query.stride()[:3],
            rows.parts,
            rows.cuts,
            suffix,
            parts,
            part_lses,
            batch,
            new,
            capacity,
            rows.splits,
            own_splits,
            rows.rows_per_split,
            scaling,
            **rows.constants,
            QUERY_GROUP=group,
            IN_PAIRS=query.dtype != torch.float32 and not knobs.runtime.interpret,
            BLOCK_QUERIES=block_queries,
            BLOCK_ROWS=block_rows,
            **launch,
        )
        merge_kernel[(queries, kv_heads)](
            parts,
            part_lses,
            output,
            lse,
            splits,
            new,
            QUERY_GROUP=group,
            HEAD_DIM=head_dim,
            BLOCK_SPLITS=_MERGED_AT_A_TIME,
            BLOCK_CHANNELS=triton.next_power_of_2(head_dim),
            num_warps=4,
        )
    return output, lse


def _tile(queries: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int, dict[str, Any]]:
    """Queries and rows of a tile, and how to launch it.

    A decode step has few queries and waits for memory: the smallest tile that tensor cores take.
    More queries share what is decoded. float32 is multiplied exactly, not in TF32, and outside
    the tensor cores.
    """
    if dtype == torch.float32:
        return 16, 32, {"PRECISION": "ieee", "num_warps": 4, "num_stages": 1}
    block_queries = 16 if queries <= 16 else 32
    block_rows = 64 if head_dim <= 128 else 32
    launch = {
        "PRECISION": "tf32",  # of no effect on 16-bit factors
        "num_warps": 4,
        "num_stages": 3 if block_queries == 16 else 2,
    }
    return block_queries, block_rows, launch


def _splits_to_fill(device: torch.device, kv_heads: int) -> int:
    """Splits of the rows so that as many programs for each head fill the device."""
    processors: int = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, _PROGRAMS_PER_PROCESSOR * processors // kv_heads)


@functools.lru_cache(maxsize=64)
def _cuts(counts: tuple[int, ...], rows_per_split: int, device: torch.device) -> Tensor:
    """The first split and the rows of each part; one tensor for all layers of a prefix."""
    first, cuts = 0, []
    for count in counts:
        cuts.append((first, count))
        first += triton.cdiv(count, rows_per_split)
    with torch.inference_mode(False):
        return torch.tensor(cuts, dtype=torch.int32).to(device)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _three(parts: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Codes, scale and minimum; None for what an encoding has not."""
    return (*parts, None, None)[:3]


def _layout(parts: Sequence[Tensor | None], head_dim: int) -> dict[str, int]:
    """How a half of the channels is cut into runs that share a scale: see `triton_kernels`."""
    half = (head_dim + 1) // 2
    scale = parts[-1] if len(parts) > 1 else None
    channels_per_scale = head_dim if scale is None else head_dim // scale.shape[-1]
    # Raw rows share nothing: all of a half is one run. Else a run lies in one half and one group
    # (which may lie across both halves), and is a power of two, so that loads are aligned.
    group = half
    if scale is not None:
        group = math.gcd(channels_per_scale, half)
        group &= -group
        while triton.next_power_of_2(half // group) < _LEAST_GROUPS and group > 1:
            group //= 2
    groups = triton.next_power_of_2(half // group)
    return {
        "HEAD_DIM": head_dim,
        "GROUP": group,
        "GROUPS": groups,
        "LANES": max(triton.next_power_of_2(group), 16 // groups),
        "CHANNELS_PER_SCALE": channels_per_scale,
    }


def _check(rows: StoredRows, kv_heads: int, head_dim: int, device: torch.device) -> None:
    for kind, parts in (("key", rows.key), ("value", rows.value)):
        groups = parts[-1].shape[-1]
        if head_dim % groups:
            raise ValueError(f"{kind} scale: {groups} groups do not divide head_dim {head_dim}")
        for part, found in zip(rows.tier.parts, parts, strict=True):
            name = f"{kind} {part.suffix.removeprefix('.') or 'codes'}"
            channels = head_dim // part.channels if part.channels else groups
            _require(name, found, (len(rows), kv_heads, channels), device)
            if part.dtype is not None and found.dtype != TORCH_DTYPES[part.dtype]:
                raise ValueError(f"{name}: got {found.dtype}, expected {TORCH_DTYPES[part.dtype]}")
    if rows.bias is not None:
        _require("bias", rows.bias, (len(rows),), device)


def _require(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.shape != shape or tensor.device != device:
        raise ValueError(
            f"{name}: got {tuple(tensor.shape)} on {tensor.device}, expected {shape} on {device}"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: is not contiguous, strides {tensor.stride()}")
