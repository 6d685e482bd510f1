"""The suites of `batch bench` that start many processes, as the product runs them."""

import json

import pytest

from batch.evaluation.bench.archive import run_archive
from batch.evaluation.bench.counting import count_steps
from batch.evaluation.bench.long import run_long
from batch.evaluation.bench.report import report

pytestmark = pytest.mark.long


def ignore(line: str) -> None:
    pass


def test_an_archive_is_measured_by_its_size_and_by_workers() -> None:
    found = run_archive(records=(3,), films=2, samples=4, variants=2, repeats=1, log=ignore)
    assert json.loads(json.dumps(found)) == found
    assert set(found["growth"]) == {"3"}
    workers = found["workers"]
    assert workers["speedup"] == workers["analyze_seconds_1"] / workers["analyze_seconds_2"]
    assert 0 <= workers["idle_share"] < 1
    assert list(report(found))


def test_phases_of_long_videos_have_peaks_of_their_own() -> None:
    found = run_long(minutes=3, short_minutes=3, films=1, evidence_films=1, log=ignore)
    assert json.loads(json.dumps(found)) == found
    figures = found["long"]["figures"]
    for growth in figures["growth"].values():
        assert 0.8 < growth < 1.25  # the same video twice, each phase in a new process
    assert all(matches["questions"] > 0 for matches in figures["evidence"].values())


def test_launches_are_counted_as_a_gpu_would_be_asked() -> None:
    counted = count_steps()
    assert counted["plain_step"].launches < counted["step"].launches
    assert counted["plain_step"].copies == 0
    assert counted["step"].synchronisations == 0
    assert counted["step"].launches <= counted["plain_step"].launches + 5
