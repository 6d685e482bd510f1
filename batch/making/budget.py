"""What a budget makes of a video: its plan with thresholds of change as high as it takes."""

from collections.abc import Callable

from batch.errors import BudgetError
from batch.making.cache_plan import VideoPlan
from batch.settings import CacheSettings

SCALES = tuple(2 ** (rung / 4) for rung in range(1, 41))
"""How many times as high thresholds are tried; by the first of them cells beside those that changed
are reused, too (`plan.sources_of`). By the last, 1,024 times, no difference between two
pictures is a change."""


def within_budget(plan: Callable[[float], VideoPlan], settings: CacheSettings) -> VideoPlan:
    """The first plan that keeps the budget, thresholds as they are and then rung by rung.

    Each rung is tried, for a higher one may compute more: it renews other cells. So under a larger
    budget never fewer tokens enter the language model.

    Args:
        plan: the plan of the video with thresholds so many times as high.

    Raises:
        BudgetError: the last rung does not keep it either.
    """
    video = plan(1.0)
    if _fits(video, settings):
        return video
    least = plan(SCALES[-1])
    if not _fits(least, settings):
        raise BudgetError(_refusal(least, settings))
    return next(found for found in map(plan, SCALES) if _fits(found, settings))


def _fits(video: VideoPlan, settings: CacheSettings) -> bool:
    """Bytes are judged where they are known before they are written."""
    tokens, is_exact = settings.budget_tokens, video.headers[0].codec.name == "plain"
    return (tokens is None or video.computed <= tokens.of(video.slots)) and not (
        is_exact and video.size_bytes > video.budget_bytes
    )


def _refusal(least: VideoPlan, settings: CacheSettings) -> str:
    name, tokens = least.manifest.video.name, settings.budget_tokens
    if tokens is not None and least.computed > tokens.of(least.slots):
        return (
            f"{name}: if nothing changed in it, {least.computed} of its {least.slots} tokens would "
            f"still enter the language model; --budget-tokens {tokens} allows "
            f"{tokens.of(least.slots)}. Allow more, or take fewer samples with --fps"
        )
    return (
        f"{name}: kept as computed, if nothing changed in it, it would still have "
        f"{least.size_bytes} bytes; --budget-bytes-per-minute allows "
        f"{int(least.budget_bytes)}. Allow more, or take fewer samples with --fps"
    )
