"""`batch index --dry-run`: what a run would take, from a look at each file."""

from pathlib import Path

import pytest

from batch.archive.catalogue import catalogue_rows
from batch.archive.estimating import _amount
from batch.archive.store import Store
from tests.archive.conftest import IndexedArchive
from tests.cli.running import batch, objects, stamps, succeed


def test_an_estimate_holds_what_the_run_then_makes(indexed: IndexedArchive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("index", indexed.archive, "--out", out, "--model", indexed.model, "--dry-run")
    (found,) = objects(succeed(*command, "--json"))
    assert not out.exists()
    store = Store(indexed.out)
    rows = [row for row in catalogue_rows(store, store.all_caches()[0]) if row["status"] == "done"]
    # The two copies among the five are known as such only when they are read.
    assert (found["files"], found["new"], found["done"], found["others"]) == (17, 5, 0, 2)
    assert {path for path, *_ in found["failing"]} == set(map(str, indexed.hostile))
    assert [reason for _, reason, _ in found["failing"]] == [
        reason.value for _, reason in sorted(indexed.hostile.items())
    ]
    each = [row["cache_bytes"] for row in rows]
    assert 5 * min(each) <= found["cache_bytes"]["about"] <= 5 * max(each)
    assert found["cache_bytes"]["least"] <= found["cache_bytes"]["about"]
    assert found["prefill_s"]["about"] > 0
    said = "\n".join(succeed(*command))
    assert "will fail  10 (1 empty, 1 no_picture, 6 not_video, 1 undecodable, 1 unreadable)" in said


def test_what_is_done_is_not_estimated_again(indexed: IndexedArchive) -> None:
    before = stamps(indexed.out)
    command = ("index", indexed.archive, "--out", indexed.out, "--model", indexed.model)
    (found,) = objects(succeed(*command, "--dry-run", "--json"))
    assert (found["new"], found["sampled"], found["cache_bytes"]) == (0, 0, None)
    assert stamps(indexed.out) == before


def test_an_amount_is_of_all_seconds_with_the_range_of_the_rates() -> None:
    amount = _amount([(10.0, 100.0), (30.0, 600.0), (0.0, 9.0)], 400.0)
    assert amount is not None
    assert (amount.about, amount.least, amount.most) == (7000.0, 4000.0, 8000.0)
    assert _amount([], 400.0) is None


@pytest.mark.parametrize("words", [("--phase", "analyze"), ("--engine", "slurm")])
def test_a_dry_run_of_a_part_is_wrong_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = ("index", tmp_path, "--out", tmp_path / "out", "--model", "demo", "--dry-run")
    result = batch(*command, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--dry-run" in result.stderr
