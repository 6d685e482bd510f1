"""Methods against the uncompressed model, question by question."""

from typing import Any

import numpy as np
import pytest

from batch.evaluation.paired import compare_pairs, questions_needed


def row(video: int, right: bool, uncompressed_right: bool) -> dict[str, Any]:
    found = {"right": right, "uncompressed_right": uncompressed_right}
    return {"data": "set", "video": f"{video}.mp4", **found}


def test_three_percent_discordant_need_about_1150_questions() -> None:
    assert questions_needed(0.03) == 1153
    assert questions_needed(0.03, margin=0.02) == 289


def test_the_interval_at_that_many_questions_reaches_the_margin() -> None:
    n = questions_needed(0.03)
    discordant = [row(place, place % 2 == 0, place % 2 == 1) for place in range(round(0.03 * n))]
    found = compare_pairs(discordant + [row(n + place, True, True) for place in range(n)][:-34])
    assert found.questions_needed == pytest.approx(n, rel=0.05)
    assert found.high - found.difference == pytest.approx(0.01, rel=0.05)


def test_counts_are_those_of_pairs() -> None:
    pairs = [(True, True)] * 5 + [(True, False)] * 2 + [(False, True)] * 3 + [(False, False)]
    found = compare_pairs(row(place, *pair) for place, pair in enumerate(pairs))
    assert (found.both_right, found.only_method, found.only_uncompressed) == (5, 2, 3)
    assert (found.neither_right, found.n, found.videos) == (1, 11, 11)
    assert found.difference == pytest.approx(-1 / 11)


def test_questions_about_one_video_count_as_one_draw() -> None:
    """Three copies of each question tell no more than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    pairs = [(bool(a), bool(b)) for a, b in rng.random((200, 2)) < 0.8]
    once = compare_pairs(row(video, *pair) for video, pair in enumerate(pairs))
    thrice = compare_pairs(row(video, *pair) for video, pair in enumerate(pairs) for _ in range(3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_one_video_proves_nothing() -> None:
    found = compare_pairs([row(0, True, True), row(0, False, True)])
    assert (found.low, found.high) == (-1.0, 1.0)
