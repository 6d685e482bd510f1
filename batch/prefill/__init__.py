"""From a manifest and a model to a cache: plan, blocks, tiers, file."""

from batch.prefill.header import make_header, same_work
from batch.prefill.plan import Plan, Pointers, Positions, make_plan
from batch.prefill.run import Prefill, Seconds, plan_cache, prefill

__all__ = [
    "Plan",
    "Pointers",
    "Positions",
    "Prefill",
    "Seconds",
    "make_header",
    "make_plan",
    "plan_cache",
    "prefill",
    "same_work",
]
