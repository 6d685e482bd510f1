"""What budgets mean for one video."""

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.methods import Budget, Prices
from batch.making.cache_plan import CachePlan
from batch.settings import Limit, Unit
from cachefmt.layout import kv_bytes, token_bytes
from cachefmt.tiers import STORED_TIERS, Tier


def budget_of(limit: Limit, full_plan: CachePlan) -> Budget:
    """A limit for the video whose every slot is in this plan.

    A share of bytes is one of the FP16 K and V of all slots.
    """
    header = full_plan.header
    whole = header.fp16_kv_bytes if limit.unit == "bytes" else header.layout.slots
    return Budget(amount=limit.of(whole), unit=limit.unit)


def sample_kv_bytes(plan: CachePlan) -> NDArray[np.int64]:
    """Bytes of K and V of each sample, separators included; int64 [samples]."""
    token = np.zeros(len(Tier), np.int64)
    for tier in STORED_TIERS:
        token[tier] = token_bytes(plan.header.shape, tier)
    sample, tiers = plan.plan.sample, plan.plan.tier
    inside = sample >= 0
    held = np.bincount(sample[inside], token[tiers[inside]], minlength=plan.header.shape.samples)
    return held.astype(np.int64)


def size_bytes(rows: int, full_plan: CachePlan) -> int:
    """Size of a file of so many FP16 tokens of the video whose every slot is in this plan."""
    shape = full_plan.header.shape
    return full_plan.size_bytes - kv_bytes(shape) + rows * token_bytes(shape, Tier.FP16)


def prices(full_plan: CachePlan, unit: Unit) -> Prices:
    """What storing costs in the video whose every slot is in this plan.

    Header and tables are priced as that plan has them; those of others differ by some bytes.
    """
    plan, shape = full_plan.plan, full_plan.header.shape
    in_sample = (plan.cell < 0) & (plan.sample >= 0)
    separators = np.bincount(plan.sample[in_sample], minlength=shape.samples).astype(np.int64)
    text = int((plan.sample < 0).sum())
    if unit == "tokens":
        one = dict.fromkeys(STORED_TIERS, 1)
        return Prices(token=one, fixed=text, separators=separators)
    token = {tier: token_bytes(shape, tier) for tier in STORED_TIERS}
    raw = token[Tier.FP16]
    fixed = size_bytes(0, full_plan) + text * raw
    return Prices(token=token, fixed=fixed, separators=separators * raw)
