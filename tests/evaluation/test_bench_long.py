"""The bench of long videos measures what it says, on short ones too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pytest
from click.testing import CliRunner

from batch.cli import main
from batch.demo.drawing import write_clip
from batch.demo.world import random_world
from batch.errors import BatchError
from batch.evaluation.bench.long import run_long
from batch.evaluation.bench.long_answers import answer_by_all, match_short_films
from batch.evaluation.bench.report import SCOPES, report
from batch.evaluation.bench.workload import load_demo, write_cache, write_manifest

P = ParamSpec("P")
T = TypeVar("T")

NAMED = (
    "accuracy_retrieve",
    "accuracy_bound",
    "accuracy_uniform",
    "read_over_budget",
    "peak_growth",
)


def call_here(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_new_process`, without the seconds that each one takes to import torch."""
    return work(*args, **kwargs)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Of one video of three minutes; `make test-long` measures in processes, as the product."""
    return run_long(
        minutes=3, short_minutes=3, films=1, evidence_films=0, log=lambda line: None, call=call_here
    )


@pytest.mark.long
def test_every_figure_is_there_and_possible(found: dict[str, Any]) -> None:
    figures = found["long"]
    assert set(NAMED) <= set(figures)
    for scope in SCOPES:
        assert 0 <= figures[f"accuracy_{scope}"] <= 1
    assert -1 < figures["read_over_budget"] < 1
    assert 0.5 < figures["peak_growth"] < 2  # a video of the same length
    behind = figures["figures"]
    assert len(behind["accuracy_by_quarter"]) == 4
    assert behind["questions"] == len(behind["answers"]) == 13
    assert behind["videos"][0]["samples"] == 180
    assert {"analyze", "prefill", "answer", "all"} <= set(behind["videos"][0]["seconds"])


@pytest.mark.long
def test_reading_counts_more_than_the_rows_that_were_loaded(found: dict[str, Any]) -> None:
    read = found["long"]["figures"]["read"]
    assert all(0 < over < 0.2 for over in read["over_loaded_rows"])


@pytest.mark.long
def test_retrieving_beats_a_segment_that_does_not_show_it(found: dict[str, Any]) -> None:
    figures = found["long"]
    assert figures["accuracy_retrieve"] > figures["accuracy_elsewhere"]


def test_the_times_named_in_short_films_are_compared_with_the_moments(tmp_path: Path) -> None:
    matches = match_short_films(tmp_path, 1, ("plain",))["plain"]
    right = [match for match in matches if match.is_right]
    assert len(right) > len(matches) / 2
    assert sum(match.recall > 0 for match in right) > len(right) / 2
    assert all(0 < match.share <= 1 for match in right)


@pytest.mark.long
def test_the_report_names_every_scope(found: dict[str, Any]) -> None:
    assert set(SCOPES) <= {line.split()[0] for line in report(found) if line}


@pytest.mark.parametrize(
    "words", [["--suite", "tiers", "--minutes", "5"], ["--suite", "long", "--size", "demo"]]
)
def test_options_of_another_suite_are_refused(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", *words])
    assert done.exit_code == 2
    assert "goes with --suite" in done.stderr


def test_every_segment_keeps_to_the_budget_of_the_bench(tmp_path: Path) -> None:
    film, family = tmp_path / "x.mp4", load_demo()
    write_clip(random_world(np.random.default_rng(1), 12), film, frames_per_s=1)
    cache = write_cache(film, write_manifest(film, family), family)
    with pytest.raises(BatchError, match="not even the best sample fits a budget of 3 tokens"):
        answer_by_all(cache, family, ["what digit is shown ?"], budget_tokens=3)
