"""Methods that evict rows after prefill: everything is read first, in memory, without a file."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from batch.answering import PrefixAnswerer
from batch.evaluation.attention_mass import AttentionMass
from batch.evaluation.budgets import prices, size_bytes
from batch.evaluation.methods import Budget, RowPolicy
from batch.evaluation.stored import Stored
from batch.evaluation.uncompressed import Uncompressed
from batch.evaluation.viewing import Viewing
from batch.kv import Prefix
from batch.making.cache_plan import CachePlan
from cachefmt.tiers import Tier, token_counts


def evict(policy: RowPolicy, viewing: Viewing, budget: Budget | None) -> Stored:
    """Let transformers read every slot, and keep the rows that a method chooses.

    Raises:
        BatchError: the budget does not hold a single row.
    """
    everything, family = viewing.everything, viewing.family
    mass = None if policy.observed_queries == 0 else AttentionMass(policy.observed_queries)
    full = Uncompressed(family, viewing.pictures, viewing.footage, mass=mass)
    started = time.perf_counter()
    count = _rows_within(budget, everything)
    shape = everything.header.shape
    if mass is None:
        seen = torch.zeros(shape.layers, shape.heads, everything.plan.slots)
    else:
        seen = torch.stack(mass.of_layers).cpu()
    prefix = _kept_rows(full, policy.keep(seen, count), everything)
    viewing.family.attend_over_tiers()
    tokens = dict(prefix.shape.tokens)
    return Stored(
        answerer=PrefixAnswerer(
            prefix,
            family,
            next_position=everything.plan.next_position,
            name=viewing.path.name,
        ),
        size_bytes=size_bytes(tokens, everything),
        kv_bytes=prefix.size_bytes,
        tokens=tokens,
        seconds=viewing.seconds(
            encode=full.encode_seconds,
            prefill=full.forward_seconds,
            quantise=time.perf_counter() - started,
        ),
    )


def _rows_within(budget: Budget | None, everything: CachePlan) -> int:
    """The most FP16 rows that a budget holds; all of them without one."""
    slots = everything.plan.slots
    if budget is None:
        return slots
    if budget.unit == "tokens":
        return min(budget.amount, slots)
    row = prices(everything, "bytes").token[Tier.FP16]
    count = min(slots, budget.amount // row)
    while count > 0 and size_bytes(_raw(count), everything) > budget.amount:
        count -= 1
    return count


def _raw(count: int) -> dict[str, int]:
    return token_counts({Tier.FP16: count})


def _kept_rows(full: Uncompressed, kept: Tensor, everything: CachePlan) -> Prefix:
    """A prefix of the rows int64 [layers, kv_heads, count] of a full cache."""
    shape = replace(everything.header.shape, tokens=_raw(kept.shape[-1]))
    prefix = Prefix.allocate(shape, full.rows(0)[0].device)
    for layer, rows in enumerate(kept):
        chosen = rows[..., None].expand(-1, -1, shape.head_dim)
        key, value = (
            states.gather(1, chosen.to(states.device)).transpose(0, 1).to(prefix.raw_dtype)
            for states in full.rows(layer)
        )
        prefix.append(layer, Tier.FP16, key, value)
    return prefix
