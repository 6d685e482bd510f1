"""From a manifest and a model to a cache: plan, blocks, tiers, file."""

from batch.making.existing import (
    remove_cache,
    remove_foreign,
    remove_replaced,
    remove_unfinished,
    segments_to_do,
)
from batch.making.header import make_header, same_work
from batch.making.memory import Memory, expect_memory, expect_video_memory
from batch.making.plan import Plan, Pointers, Positions, make_plan
from batch.making.run import Prefill, Seconds, plan_cache, prefill
from batch.making.segments import Stretch, cut
from batch.making.video import VideoPlan, plan_video

__all__ = [
    "Memory",
    "Plan",
    "Pointers",
    "Positions",
    "Prefill",
    "Seconds",
    "Stretch",
    "VideoPlan",
    "cut",
    "expect_memory",
    "expect_video_memory",
    "make_header",
    "make_plan",
    "plan_cache",
    "plan_video",
    "prefill",
    "remove_cache",
    "remove_foreign",
    "remove_replaced",
    "remove_unfinished",
    "same_work",
    "segments_to_do",
]
