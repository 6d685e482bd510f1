"""The bench of archives measures what it says, on small numbers too."""

from pathlib import Path

import pytest

from batch.archive.catalogue import catalogue_rows
from batch.archive.store import Store
from batch.evaluation.bench.archive import cost_of, run_archive, simulate
from tests.cli.running import batch


def test_a_simulated_archive_is_one_of_which_all_is_done(tmp_path: Path) -> None:
    archive, out = simulate(tmp_path, 30)
    store = Store(out)
    (work,) = store.all_caches()
    rows = list(catalogue_rows(store, work))
    assert [row["status"] for row in rows if row["path"].startswith(str(archive))] == ["done"] * 30
    result = batch("index", archive, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "30 skipped" in result.stderr


def test_growth_and_workers_are_measured(tmp_path: Path) -> None:
    found = run_archive(records=(3,), films=2, samples=4, variants=2, repeats=1)
    assert set(found["growth"]["3"]) == {"plan", "catalogue", "no_op", "status"}
    for cost in found["growth"]["3"].values():
        assert 0.1 < cost["seconds"] < 600
        assert 10e6 < cost["peak_bytes"] < 500e6
    workers = found["workers"]
    assert workers["speedup"] == workers["analyze_seconds_1"] / workers["analyze_seconds_2"]
    assert 0 <= workers["idle_share"] < 1


def test_a_command_that_fails_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="batch status left with 2"):
        cost_of("status", tmp_path / "missing")
