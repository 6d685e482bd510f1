"""From a manifest and a model to a cache: plan, blocks, tiers, file."""

from batch.prefill.header import make_header, same_work
from batch.prefill.memory import Memory, expect_memory
from batch.prefill.plan import Plan, Pointers, Positions, make_plan
from batch.prefill.run import Prefill, plan_cache, prefill
from batch.prefill.segments import Stretch, cut

__all__ = [
    "Memory",
    "Plan",
    "Pointers",
    "Positions",
    "Prefill",
    "Stretch",
    "cut",
    "expect_memory",
    "make_header",
    "make_plan",
    "plan_cache",
    "prefill",
    "same_work",
]
