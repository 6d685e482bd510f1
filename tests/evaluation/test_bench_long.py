"""The bench of long videos measures what it says, on short ones too."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from batch.cli import main
from batch.cli.bench_long import SCOPES
from batch.demo.clip import write_clip
from batch.demo.moments import moments
from batch.demo.world import imagine
from batch.errors import BatchError
from batch.evaluation.bench import long, scopes
from batch.evaluation.bench.reading import bytes_read
from batch.evaluation.bench.scopes import ask_scopes
from batch.evaluation.bench.stages import load_demo, write_cache, write_manifest

NAMED = (
    "accuracy_retrieve",
    "accuracy_bound",
    "accuracy_uniform",
    "read_over_budget",
    "peak_growth",
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return long.run_long(minutes=3, short_minutes=3, films=1, evidence_films=1)


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


def test_reading_counts_more_than_the_rows_that_were_loaded(found: dict[str, Any]) -> None:
    read = found["long"]["figures"]["read"]
    assert all(0 < over < 0.2 for over in read["over_loaded_rows"])


def test_retrieving_beats_a_segment_that_does_not_show_it(found: dict[str, Any]) -> None:
    figures = found["long"]
    assert figures["accuracy_retrieve"] > figures["accuracy_elsewhere"]


def test_the_command_prints_every_scope(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long, "run_long", lambda **how: found)
    done = CliRunner().invoke(main, ["bench", "--suite", "long", "--minutes", "3"])
    assert done.exit_code == 0, done.output
    assert set(SCOPES) <= {line.split()[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize(
    "words", [["--suite", "tiers", "--minutes", "5"], ["--suite", "long", "--size", "demo"]]
)
def test_options_of_another_suite_are_refused(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", *words])
    assert done.exit_code == 2
    assert "goes with --suite" in done.stderr


def test_every_segment_keeps_to_the_budget_of_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, family = tmp_path / "x.mp4", load_demo()
    world = imagine(np.random.default_rng(1), 12)
    write_clip(world, film, frames_per_s=1)
    write_manifest(film)
    cache = write_cache(film, family)
    monkeypatch.setattr(scopes, "PrefixAnswerer", None)  # what is asked next has no budget
    with pytest.raises(BatchError, match="not even the best sample fits a budget of 3 tokens"):
        ask_scopes(film, cache, moments(world), budget_tokens=3)


def test_bytes_are_counted_whether_they_are_read_or_mapped(tmp_path: Path) -> None:
    path, megabyte = tmp_path / "x", 1 << 20
    path.write_bytes(bytes(4 * megabyte))

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            file.read(megabyte)

    def touch() -> mmap.mmap:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for at in range(0, 2 * megabyte, mmap.PAGESIZE):
            mapped[at]
        return mapped

    asked, mapped = bytes_read(read, [path]), bytes_read(touch, [path])
    assert (asked.asked, asked.mapped) == (megabyte, 0)
    assert mapped.asked < 10_000
    assert 2 * megabyte <= mapped.mapped <= 4 * megabyte
