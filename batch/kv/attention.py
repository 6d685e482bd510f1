"""Attention over a set of keys as a weighted mean of attention over its parts.

Softmax attention over the union of parts is the mean of the parts' outputs, weighted by the
exponential of each part's log-sum-exp (lse) of scores. So rows may be stored in any order, in any
number of parts, each in its own encoding, and be decoded a chunk at a time.

Knows nothing of encodings, files or transformers.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from batch.errors import ModelError
from batch.kv.codes import attend_codes, takes_codes
from batch.kv.reuse import ReusedRows
from batch.kv.rows import Chunk, StoredRows, chunks_of

Kernel = Literal["auto", "torch", "triton"]
"""What attends to stored rows: "torch" decodes a chunk at a time, "triton" in registers, if queries
are few; "auto" is Triton's kernel for few queries on CUDA, where it is installed."""

CHUNK_NUMBERS = 1 << 19
"""Numbers of keys, and as many of values, decoded at a time: 2 MiB each in float32.

Source: one query and 8,192 rows of INT8 or INT4 on two cores. For 2 heads x 32 or 64 channels
2 MiB are 1.4 to 2.2 times as fast as 1,024 rows, whose calls cost more than their work; for 8
heads x 128, 16 MiB leave the processor's cache and take 1.2 to 1.8 times as long as 2 MiB.
"""

CHUNK_NUMBERS_ON_GPU = 1 << 25
"""The same on CUDA for many queries: 64 MiB each in bfloat16, 32,768 rows of 8 heads x 128, which
keep a GPU busy for milliseconds. Modelled, not measured."""


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


def rows_at_a_time(kv_heads: int, head_dim: int, device: torch.device | None = None) -> int:
    """Rows whose keys are as many numbers as are decoded at a time on a device, at least one."""
    is_cuda = device is not None and device.type == "cuda"
    numbers = CHUNK_NUMBERS_ON_GPU if is_cuda else CHUNK_NUMBERS
    return max(1, numbers // (kv_heads * head_dim))


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
        chunk_rows: most rows decoded at a time, for all queries; None: as of `rows_at_a_time`. For
            a few queries on the CPU they are not decoded (`batch.kv.codes`).

    Returns:
        output float32 [kv_heads, folded, head_dim] and lse float32 [kv_heads, folded].
    """
    kv_heads, _, head_dim = query.shape
    parts = [part for part in parts if len(part)]
    chunk_rows = chunk_rows or rows_at_a_time(kv_heads, head_dim, query.device)
    coded = [part for part in parts if takes_codes(query, part)]
    decoded = [part for part in parts if not takes_codes(query, part)]
    by_code = (attend_codes(query, part, scaling=scaling, chunk_rows=chunk_rows) for part in coded)
    chunks = chunks_of(decoded, query.dtype, chunk_rows)
    return merge(chain(*by_code, (_attend_chunk(query, chunk, scaling) for chunk in chunks)))


def _attend_chunk(query: Tensor, chunk: Chunk, scaling: float) -> tuple[Tensor, Tensor]:
    key, value = chunk.key.transpose(0, 1), chunk.value.transpose(0, 1)
    bias = None if chunk.bias is None else chunk.bias.expand(1, 1, query.shape[1], -1)
    output, lse = _partial(query[None], key[None], value[None], bias, scaling)
    return output[0], lse[0]


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
    # Kernels say 0 or NaN, not -inf, for a query that sees nothing (torch 2.13).
    nothing = bias.amax(-1) == -torch.inf
    return output.masked_fill(nothing.unsqueeze(-1), 0), lse.masked_fill(nothing, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Columns that see each other causally, some of which count as copies that come later.

    - bias: float32 [columns] on any device, as layers may be on several; added to the scores of a
      column for the queries of later pieces than its own; None = zero.
    - stops: where each piece ends, in order; the last is the number of columns.
    - reused: columns that are no queries, as nothing was computed for them; then there is no bias.
    """

    bias: Tensor | None = None
    stops: tuple[int, ...] = ()
    reused: ReusedRows | None = None


def attend_block(
    query: Tensor, key: Tensor, value: Tensor, block: Block | None, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend causally from each sequence to its own keys; a mask is made for reused ones alone.

    Args:
        query: [batch, heads, columns, head_dim], but for those that are reused.
        key, value: [batch, kv_heads, columns, head_dim].
        block: None: nothing counts as copies, or is reused.

    Returns:
        As of `attend_own`.
    """
    if block is not None and block.reused is not None:
        hidden = block.reused.hidden(query.device)
        return attend_own(query, key, value, hidden, scaling=scaling)
    if block is None or block.bias is None:
        return _partial(query, key, value, None, scaling, is_causal=True)
    pieces, start = [], 0
    for stop in block.stops:
        own = query[:, :, start:stop]
        found = _partial(
            own, key[:, :, start:stop], value[:, :, start:stop], None, scaling, is_causal=True
        )
        if start:
            bias = block.bias[:start].to(own.device).expand(1, 1, stop - start, -1)
            earlier = _partial(own, key[:, :, :start], value[:, :, :start], bias, scaling)
            found = merge([found, earlier])
        pieces.append(found)
        start = stop
    outputs, lses = zip(*pieces, strict=True)
    return torch.cat([output.float() for output in outputs], 2), torch.cat(lses, 2)


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
        # The other's share of both sums; -inf - -inf is NaN, and neither weighs anything.
        share = torch.sigmoid(other_lse.float() - lse).nan_to_num_(0.0)
        output = torch.lerp(output, other_output.float(), share.unsqueeze(-1))
        lse = torch.logaddexp(lse, other_lse.float())
    return output, lse


def check_kernel(kernel: Kernel, device: torch.device) -> None:
    """Raise ModelError where a kernel cannot run on a device."""
    if kernel != "triton":
        return
    if importlib.util.find_spec("triton") is None:
        raise ModelError("attention by triton: not installed;  pip install 'triton>=3.7,<4'")
    from triton import knobs

    if device.type != "cuda" and not knobs.runtime.interpret:
        raise ModelError(
            f"attention by triton: it needs CUDA, the model runs on {device}. "
            "With --attn auto it is used where it can be."
        )


def _partial(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scaling: float,
    *,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend to one set of keys by the first kernel that takes it; shapes as of `attend_own`.

    is_causal: as many queries as keys, of which each sees its own and those before; then there is
    no bias.
    """
    if key.shape[2] == 0:
        # torch 2.13's CPU kernel ends the process (SIGFPE) on an empty key axis.
        raise ValueError("cannot attend to zero keys")
    for kernel in _KERNELS:
        if kernel.takes(query, bias):
            return kernel.attend(query, key, value, bias, scaling, is_causal)
    return _plain(query, key, value, bias, scaling, is_causal)


_Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, bool], tuple[Tensor, Tensor]]


class _TorchKernel(NamedTuple):
    """One of torch's kernels that return an lse, and what it takes."""

    attend: _Attend
    device: str
    dtypes: tuple[torch.dtype, ...]
    takes_bias: bool = True
    channels: int = 1
    """head_dim is a multiple of it."""
    most_channels: int = 1 << 16

    def takes(self, query: Tensor, bias: Tensor | None) -> bool:
        return (
            query.device.type == self.device
            and query.dtype in self.dtypes
            and (bias is None or self.takes_bias)
            and query.shape[-1] % self.channels == 0
            and query.shape[-1] <= self.most_channels
        )


def _flash_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, is_causal: bool
) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=is_causal, attn_mask=bias, scale=scaling
    )
    return output, lse


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """Groups of heads share keys."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, is_causal=is_causal, scale=scaling
    )
    return output, lse


def _efficient(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """It wants as many key heads as heads, a bias for each, and aligned rows of it."""
    batch, heads, queries, head_dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    if is_causal:
        key, value = (states.repeat_interleave(group, 1) for states in (key, value))
    else:
        query = query.reshape(batch, kv_heads, group * queries, head_dim)
    if bias is not None:
        bias = _aligned(bias.to(query.dtype), group).expand(batch, kv_heads, -1, -1)
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, is_causal=is_causal, scale=scaling
    )
    # Its lse is padded to a multiple of 32 queries.
    lse = lse[..., : query.shape[2]]
    return output.reshape(batch, heads, queries, head_dim), lse.reshape(batch, heads, queries)


def _aligned(bias: Tensor, group: int) -> Tensor:
    """A bias [batch or 1, 1, queries, keys] for queries of a whole group of heads.

    Its rows start at multiples of 8 numbers, in memory of their own; one that is the same for all
    queries is one row.
    """
    keys = bias.shape[-1]
    if bias.stride(2) == 0:
        queries, bias = bias.shape[2], bias[:, :, :1]
    else:
        bias = bias.repeat(1, 1, group, 1)
        queries = 0
    rows = torch.nn.functional.pad(bias, (0, -keys % 8))[..., :keys]
    return rows.expand(-1, -1, group * queries, -1) if queries else rows


def _plain(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """In float32 throughout, for every device and dtype."""
    batch, heads, queries, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.float().reshape(batch, kv_heads, -1, head_dim)
    scores = (grouped * scaling) @ key.float().transpose(-1, -2)
    by_head = scores.view(batch, kv_heads, -1, queries, scores.shape[-1])
    if bias is not None:
        by_head.add_(bias.unsqueeze(1))
    if is_causal:
        seen = torch.ones(queries, queries, dtype=torch.bool, device=query.device).tril_()
        by_head.masked_fill_(~seen, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)
    reference = lse.clamp(min=torch.finfo(lse.dtype).min).unsqueeze(-1)
    output = torch.exp(scores - reference) @ value.float()
    return output.reshape(query.shape), lse.reshape(batch, heads, queries)


_HALVES = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, *_HALVES)
_KERNELS = (
    _TorchKernel(_flash_on_cpu, "cpu", _DTYPES),
    _TorchKernel(_flash, "cuda", _HALVES, takes_bias=False, channels=8, most_channels=256),
    _TorchKernel(_efficient, "cuda", _DTYPES, channels=8),
)
"""The fastest first."""
