"""Attention over stored rows by Triton kernels: codes are decoded in registers, never in memory.

Knows how to cut the work into programs and launch `triton_kernels`; imports Triton, so it is
itself imported only where it is used. The torch path of `attention` is the reference.

Run so far: interpreted on the CPU with Triton 3.7.1 and 3.9.0, compiled for sm_80 to sm_120, and
once on an H200 (the first 55 cases of tests/kv/triton_cases.py). Tile sizes and splits are chosen
by what the compiler reports (registers, spills, loads), not by measured time.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from batch.kv.rows import StoredRows
from batch.kv.triton_kernels import attend_kernel, merge_kernel
from cachefmt.tensors import TORCH_DTYPES

_LEAST_ROWS_PER_SPLIT = 256
"""A split writes one float32 row a query: with fewer rows that costs more than it hides."""

_MOST_SPLITS = 128
"""What one program of `merge_kernel` holds in registers at head_dim 128."""

_LEAST_GROUPS = 4
"""Scales loaded for half a row: with 64 rows one for each of the 256 threads of the largest tile.
Triton 3.7 loads a tile with fewer scales than threads again wherever it is used, which spilled.
"""

_PROGRAMS_PER_PROCESSOR = 2
"""Programs on each multiprocessor, so that one computes while the other waits for memory."""


def attend_stored(
    query: Tensor, rows: StoredRows, *, scaling: float, splits: int | None = None
) -> tuple[Tensor, Tensor]:
    """Attend from folded queries to all rows of one part.

    Args:
        query: float32, bfloat16 or float16 [kv_heads, folded, head_dim]; keys and values are
            decoded in float32, rounded to its dtype, and multiplied in it with float32 sums.
        rows: on query's device, any number; the last axis of each tensor is contiguous.
        splits: programs that share the rows of a tile of queries; None = enough to fill the
            device. The result does not depend on it but for rounding.

    Returns:
        output and lse as of `attend`; without rows 0 and -inf, which weigh nothing in `merge`.
    """
    _check(query, rows)
    query = query.contiguous()
    kv_heads, folded, head_dim = query.shape
    count = len(rows)
    if count == 0 or folded == 0:
        output = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        return output, torch.full_like(output[..., 0], -torch.inf)
    block_queries, block_rows, launch = _tile(folded, head_dim, query.dtype)
    tiles = triton.cdiv(folded, block_queries)
    if splits is None:
        splits = _splits_to_fill(query.device, tiles * kv_heads, count)
    rows_per_split = triton.cdiv(triton.cdiv(count, splits), block_rows) * block_rows
    splits = triton.cdiv(count, rows_per_split)
    outputs = torch.empty((splits, *query.shape), dtype=torch.float32, device=query.device)
    lses = torch.empty((splits, kv_heads, folded), dtype=torch.float32, device=query.device)
    # Triton launches on the current device, which need not be the query's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]  # torch 2.13
        attend_kernel[(tiles, kv_heads, splits)](
            query,
            _three(rows.key),
            _three(rows.value),
            rows.bias,
            outputs,
            lses,
            _strides(rows.key),
            _strides(rows.value),
            folded,
            count,
            rows_per_split,
            scaling,
            TIER=rows.tier.name,
            **_layout(rows.key, head_dim),
            BLOCK_QUERIES=block_queries,
            BLOCK_ROWS=block_rows,
            **launch,
        )
        return (outputs[0], lses[0]) if splits == 1 else _merge_splits(outputs, lses)


def _merge_splits(outputs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Merge along the first axis in one launch."""
    splits, *_, head_dim = outputs.shape
    output, lse = torch.empty_like(outputs[0]), torch.empty_like(lses[0])
    merge_kernel[(lse.numel(),)](
        outputs,
        lses,
        output,
        lse,
        splits,
        HEAD_DIM=head_dim,
        BLOCK_SPLITS=triton.next_power_of_2(splits),
        BLOCK_CHANNELS=triton.next_power_of_2(head_dim),
        num_warps=8 if splits > 32 else 4,
    )
    return output, lse


def _tile(folded: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int, dict[str, Any]]:
    """Queries and rows of a tile, and how to launch it.

    Decoding has few queries and waits for memory: the smallest tile tensor cores take. Prefill
    has thousands and pays for every time the rows are decoded again: the largest that fits.
    float32 is multiplied exactly, not in TF32, and outside the tensor cores.
    """
    if dtype == torch.float32:
        return 16, 32, {"PRECISION": "ieee", "num_warps": 4, "num_stages": 1}
    block_queries, block_rows = (128, 64) if head_dim <= 128 else (64, 32)
    block_queries = min(block_queries, max(16, triton.next_power_of_2(folded)))
    launch = {
        "PRECISION": "tf32",  # of no effect on 16-bit factors
        "num_warps": 8 if block_queries == 128 else 4,
        "num_stages": 3 if block_queries <= 32 else 2,
    }
    return block_queries, block_rows, launch


def _splits_to_fill(device: torch.device, programs: int, rows: int) -> int:
    """Splits of the rows so that `programs` per split fill the device, none of them tiny."""
    processors: int = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted: int = triton.cdiv(_PROGRAMS_PER_PROCESSOR * processors, programs)
    return max(1, min(wanted, rows // _LEAST_ROWS_PER_SPLIT, _MOST_SPLITS))


def _three(parts: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Codes, scale and minimum; None for what an encoding has not."""
    return (*parts, None, None)[:3]


def _layout(parts: tuple[Tensor, ...], head_dim: int) -> dict[str, int]:
    """How a half of the channels is cut into runs that share a scale: see `triton_kernels`."""
    half = (head_dim + 1) // 2
    is_scaled = len(parts) > 1
    channels_per_scale = head_dim // parts[-1].shape[-1] if is_scaled else head_dim
    # Raw rows share nothing: all of a half is one run. Else a run lies in one half and one group
    # (which may lie across both halves), and is a power of two, so that loads are aligned.
    group = half
    if is_scaled:
        group = math.gcd(channels_per_scale, half)
        group &= -group
        while triton.next_power_of_2(half // group) < _LEAST_GROUPS and group > 1:
            group //= 2
    groups = triton.next_power_of_2(half // group)
    return {
        "HEAD_DIM": head_dim,
        "GROUP": group,
        "GROUPS": groups,
        # Tensor cores take no fewer than 16 channels.
        "LANES": max(triton.next_power_of_2(group), 16 // groups),
        "CHANNELS_PER_SCALE": channels_per_scale,
    }


def _strides(parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Of codes, then of scale and minimum, along rows and heads."""
    return (*parts[0].stride()[:2], *parts[-1].stride()[:2])


def _check(query: Tensor, rows: StoredRows) -> None:
    kv_heads, _, head_dim = query.shape
    for kind, parts in (("key", rows.key), ("value", rows.value)):
        groups = parts[-1].shape[-1]
        if head_dim % groups:
            raise ValueError(f"{kind} scale: {groups} groups do not divide head_dim {head_dim}")
        for part, found in zip(rows.tier.parts, parts, strict=True):
            name = f"{kind} {part.suffix.removeprefix('.') or 'codes'}"
            channels = head_dim // part.channels if part.channels else groups
            _require(name, found, (len(rows), kv_heads, channels), query.device)
            if part.dtype is not None and found.dtype != TORCH_DTYPES[part.dtype]:
                raise ValueError(f"{name}: got {found.dtype}, expected {TORCH_DTYPES[part.dtype]}")
        if len({part.stride() for part in parts[1:]}) > 1:
            raise ValueError(f"{kind}: strides of its scale and of its minimum differ")
    if rows.bias is not None:
        _require("bias", rows.bias, (len(rows),), query.device)
    if _layout(rows.key, head_dim) != _layout(rows.value, head_dim):
        raise ValueError("key and value: groups of different sizes")


def _require(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.shape != shape or tensor.device != device:
        raise ValueError(
            f"{name}: got {tuple(tensor.shape)} on {tensor.device}, expected {shape} on {device}"
        )
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name}: its last axis is not contiguous, strides {tensor.stride()}")
