"""The bench of archives measures what it says, on small numbers too."""

from pathlib import Path

import pytest

from batch.archive.catalogue import catalogue_rows
from batch.archive.store import Store
from batch.evaluation.bench.archive import cost_of, measure_growth, simulate
from tests.cli.running import batch


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive of 30 videos and its caches."""
    return simulate(tmp_path_factory.mktemp("simulated"), 30)


@pytest.mark.long
def test_a_simulated_archive_is_one_of_which_all_is_done(simulated: tuple[Path, Path]) -> None:
    archive, out = simulated
    store = Store(out)
    (work,) = store.all_caches()
    rows = list(catalogue_rows(store, work))
    assert [row["status"] for row in rows if row["path"].startswith(str(archive))] == ["done"] * 30
    result = batch("index", archive, "--out", out, "--model", "demo")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "30 skipped" in result.stderr


@pytest.mark.long
def test_the_cost_of_each_command_is_measured(simulated: tuple[Path, Path]) -> None:
    found = measure_growth(*simulated, lambda line: None)
    assert set(found) == {"plan", "catalogue", "no_op", "status"}
    for cost in found.values():
        assert 0.1 < cost["seconds"] < 600
        assert 10e6 < cost["peak_bytes"] < 500e6


def test_a_command_that_fails_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="batch status left with 2"):
        cost_of("status", tmp_path / "missing")
