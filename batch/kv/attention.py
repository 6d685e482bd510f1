"""Attention over a set of keys as a weighted mean of attention over its parts.

Softmax attention over the union of parts is the mean of the parts' outputs, weighted by the
exponential of each part's log-sum-exp (lse) of scores. So rows may be stored in any order, in any
number of parts, each in its own encoding, and be decoded a chunk at a time.

Knows nothing of encodings, files or transformers.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from batch.errors import ModelError
from batch.kv.rows import StoredRows

Kernel = Literal["auto", "torch", "triton"]
"""What attends to stored rows: "torch" decodes a chunk at a time, "triton" in registers, if queries
are few; "auto" is Triton's kernel for few queries on CUDA, where it is installed."""

CHUNK_NUMBERS = 1 << 19
"""Numbers of keys, and as many of values, decoded at a time: 2 MiB each in float32.

Source: one query and 8,192 rows of INT8 or INT4 on two cores. For 2 heads x 32 or 64 channels
2 MiB are 1.4 to 2.2 times as fast as 1,024 rows, whose calls cost more than their work; for 8
heads x 128, 16 MiB leave the processor's cache and take 1.2 to 1.8 times as long as 2 MiB.
"""

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fold(query: Tensor, kv_heads: int) -> Tensor:
    """Lay all queries that read the same key/value head along one axis.

    [batch, heads, queries, head_dim] -> [kv_heads, batch * group * queries, head_dim]: the shared
    prefix has no causal mask and no order.
    """
    batch, heads, queries, head_dim = query.shape
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, queries, head_dim)
    return grouped.transpose(0, 1).reshape(kv_heads, -1, head_dim)


def unfold(folded: Tensor, batch: int, queries: int) -> Tensor:
    """Undo `fold`; trailing axes (head_dim, or none for an lse) are kept."""
    grouped = folded.reshape(folded.shape[0], batch, -1, queries, *folded.shape[2:])
    return grouped.transpose(0, 1).flatten(1, 2)


def rows_at_a_time(kv_heads: int, head_dim: int) -> int:
    """Rows whose keys are `CHUNK_NUMBERS` numbers, at least one."""
    return max(1, CHUNK_NUMBERS // (kv_heads * head_dim))


def attend(
    query: Tensor,
    parts: Iterable[StoredRows],
    *,
    scaling: float,
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from folded queries to every row of all parts.

    Args:
        query: [kv_heads, folded, head_dim] (see `fold`); its dtype is the compute dtype.
        parts: in any order; empty ones are skipped, but all empty is a ValueError.
        scaling: factor of the scores, usually head_dim ** -0.5.
        chunk_rows: most rows decoded at a time, None: as many as `CHUNK_NUMBERS` allows.

    Returns:
        output float32 [kv_heads, folded, head_dim] and lse float32 [kv_heads, folded].
    """
    kv_heads, _, head_dim = query.shape
    chunk_rows = chunk_rows or rows_at_a_time(kv_heads, head_dim)
    return merge(
        partial
        for part in parts
        if len(part)
        for partial in _attend_part(query, part, scaling, chunk_rows)
    )


def attend_own(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend from each sequence to its own keys; groups of heads share keys without copies.

    Args:
        query: [batch, heads, queries, head_dim].
        key, value: [batch, kv_heads, keys, head_dim], keys >= 1, heads a multiple of kv_heads.
        bias: float32 [batch, 1, queries, keys], added to the scores; -inf hides a key.

    Returns:
        output [batch, heads, queries, head_dim] and lse float32 [batch, heads, queries]; a query
        that sees no key has output 0 and lse -inf, so it weighs nothing in `merge`.
    """
    output, lse = _partial(query, key, value, bias, scaling)
    # torch 2.13's CPU kernel says lse 0, not -inf, for a query that sees nothing.
    return output, lse.masked_fill(bias.amax(-1) == -torch.inf, -torch.inf)


def merge(partials: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join attention over disjoint sets of keys into attention over their union.

    Takes output [..., head_dim] and lse [...] of each set, all of one shape, one at a time, and
    returns float32 of these shapes. lse -inf weighs nothing; no set at all is a ValueError.
    """
    iterator = iter(partials)
    first = next(iterator, None)
    if first is None:
        raise ValueError("nothing to attend to: every part is empty")
    output, lse = first[0].float(), first[1].float()
    for other_output, other_lse in iterator:
        total = torch.logaddexp(lse, other_lse.float())
        # -inf - -inf is NaN: a query that has seen nothing yet keeps weights of exp(-inf) = 0.
        reference = total.clamp(min=torch.finfo(total.dtype).min)
        weight = torch.exp(lse - reference).unsqueeze(-1)
        other_weight = torch.exp(other_lse - reference).unsqueeze(-1)
        output = torch.addcmul(output * weight, other_output.float(), other_weight)
        lse = total
    return output, lse


def check_kernel(kernel: Kernel, device: torch.device) -> None:
    """Raise ModelError where a kernel cannot run on a device."""
    if kernel != "triton":
        return
    if importlib.util.find_spec("triton") is None:
        raise ModelError("attention by triton: not installed;  pip install 'sali-cache[triton]'")
    from triton import knobs

    if device.type != "cuda" and not knobs.runtime.interpret:
        raise ModelError(
            f"attention by triton: it needs CUDA, the model runs on {device}. "
            "With --attn auto it is used where it can be."
        )


def _attend_part(
    query: Tensor, part: StoredRows, scaling: float, chunk_rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attend to a part, decoded chunk by chunk."""
    for chunk in part.chunks(query.dtype, chunk_rows):
        key, value = chunk.key.transpose(0, 1), chunk.value.transpose(0, 1)
        bias = None if chunk.bias is None else chunk.bias.expand(1, 1, query.shape[1], -1)
        output, lse = _partial(query[None], key[None], value[None], bias, scaling)
        yield output[0], lse[0]


def _partial(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend to one set of keys, shapes as of `attend_own`: all that knows of torch's kernels."""
    if key.shape[2] == 0:
        # torch 2.13's CPU kernel ends the process (SIGFPE) on an empty key axis.
        raise ValueError("cannot attend to zero keys")
    if query.device.type == "cpu" and query.dtype in _KERNEL_DTYPES:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=bias, scale=scaling
        )
        return output, lse
    # Plain torch, float32 throughout, for every device and dtype.
    batch, heads, queries, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.float().reshape(batch, kv_heads, -1, head_dim)
    scores = (grouped * scaling) @ key.float().transpose(-1, -2)
    if bias is not None:
        grouped_scores = scores.view(batch, kv_heads, -1, queries, scores.shape[-1])
        grouped_scores.add_(bias.unsqueeze(1))
    lse = torch.logsumexp(scores, dim=-1)
    reference = lse.clamp(min=torch.finfo(lse.dtype).min).unsqueeze(-1)
    output = torch.exp(scores - reference) @ value.float()
    return output.reshape(query.shape), lse.reshape(batch, heads, queries)
