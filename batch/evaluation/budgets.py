"""Budgets as people give them, and what they mean for one video."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.errors import BatchError
from batch.evaluation.methods import Budget, Prices, Unit
from batch.making.cache_plan import CachePlan
from cachefmt.layout import kv_bytes, token_bytes
from cachefmt.tiers import STORED_TIERS, Tier


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A budget for every video: an amount, or a share of all its slots or their FP16 K and V."""

    unit: Unit
    amount: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if not 0 < (self.amount or self.share or 0) < math.inf:
            raise ValueError(f"limit: got {self}, expected more than 0")

    @classmethod
    def parse(cls, text: str, unit: Unit) -> "Limit":
        """Read "784" or "25%"."""
        try:
            if text.endswith("%"):
                return cls(unit=unit, share=float(text[:-1]) / 100)
            return cls(unit=unit, amount=int(text))
        except ValueError as error:
            raise BatchError(
                f"--budget-{unit}: got {text!r}, expected a number like 784 or a share like 25%"
            ) from error

    @property
    def label(self) -> str:
        return f"{f'{100 * self.share:g}%' if self.share else self.amount} {self.unit}"

    def of(self, full_plan: CachePlan) -> Budget:
        """The budget of the video whose every slot is in this plan."""
        if self.share is None:
            return Budget(amount=self.amount or 0, unit=self.unit)
        header = full_plan.header
        whole = header.fp16_kv_bytes if self.unit == "bytes" else header.layout.slots
        return Budget(amount=int(self.share * whole), unit=self.unit)


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
