"""Rows of `--suite reuse` are what their figures say, and come as films of a kind are done."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from batch.evaluation import choosing, reuse_suite
from batch.evaluation.reuse_suite import judge_reuse, reuse_rows, reuse_table
from batch.evaluation.runs import Label
from tests.evaluation.runs import asked, demo_judge, run, uncompressed

RIGHT, WRONG = asked(), asked(answer="blue")


def test_a_row_is_of_all_films_by_one_way_against_the_uncompressed_model() -> None:
    label = Label(method="sali-cache", profile="cells")
    films = [("plain-21-0.mp4", (RIGHT, WRONG)), ("easy-21-1.mp4", (RIGHT,))]
    runs = [run(*answers, label=label, video=video) for video, answers in films]
    runs += [uncompressed(*answers, video=video) for video, answers in films]
    [row] = reuse_rows("demo", "all", runs)
    assert (row.judge, row.films, row.reuse, row.n) == ("demo", "all", "cells", 3)
    assert row.retained == row.agreement == pytest.approx(2 / 3)
    assert (row.computed_share, row.prefill_time) == (12 / 50, 1.0)
    assert reuse_table([row]).to_text()[-1].split()[:5] == ["demo", "all", "cells", "3", "0.240"]


def test_each_way_answers_about_the_same_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model and one short film: cells compute the least and lose no right answer."""
    monkeypatch.setattr(choosing, "VARIANTS", ["easy"])
    monkeypatch.setattr(reuse_suite, "SEEDS", [5])
    rows = list(judge_reuse(demo_judge(), _silently))
    of_kind, of_all = rows[:3], rows[3:]
    assert [row.films for row in of_all] == ["all"] * 3
    assert [row.reuse for row in of_kind] == ["none", "samples", "cells"]
    assert [row.kl for row in of_kind] == [row.kl for row in of_all]
    none, samples, cells = of_all
    assert none.computed_share == 1
    assert none.kl is not None
    assert none.kl < 1e-5
    assert cells.computed_share < 0.5 < 1.5 * samples.computed_share
    assert cells.retained == 1


def _silently(what: str, amount: int, unit: str) -> AbstractContextManager[Callable[[int], object]]:
    return nullcontext(lambda more: None)
