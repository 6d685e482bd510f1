"""Token and sample tables that break a rule of FORMAT.md are refused by row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cachefmt import CacheFile
from tests.cachefmt.breaking import forge, verifying_fails
from tests.cachefmt.files import SHAPE, Arrays


def put(name: str, row: int | tuple[int, int], value: float) -> Callable[[Arrays], None]:
    return lambda arrays: arrays[name].__setitem__(row, value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("sample.source", 0, 1), "sample.source, row 0: is not the sample or an earlier one"),
        (put("sample.source", 1, -1), "sample.source, row 1: is not the sample or an earlier one"),
        (put("token.sample", 3, 2), "token.sample, row 3: is a pointer, which has no cells"),
        (put("sample.time_s", 1, np.nan), "sample.time_s, row 1: is not finite"),
        (put("sample.time_s", 1, -1), "sample.time_s, row 1: is before the sample above it"),
        (put("cost.seconds", 2, -1), "cost.seconds, row 2: is negative or not finite"),
        (put("token.multiplicity", 8, 0), "token.multiplicity, row 8: is below 1"),
        (put("token.sample", 8, 3), "token.sample, row 8: is not a sample"),
        (put("token.sample", 8, -2), "token.sample, row 8: is not a sample"),
        (put("token.sample", 1, -1), "token.cell, row 1: is a cell of no sample"),
        (put("token.cell", 1, 6), "token.cell, row 1: is not a cell"),
        (put("token.cell", 2, 0), "token.cell, row 2: is not sorted"),
        (put("token.sample", 1, 1), "token.sample, row 2: is not sorted"),
        (put("token.position", 0, -1), "token.position, row 0: is negative"),
        (put("index.row", (1, 1), 2), "index.row, row 1: is not where its sample begins in INT8"),
        (put("index.row", (1, 0), 5), "index.row, row 1: is not a row"),
        (put("index.row", (0, 2), -1), "index.row, row 0: is not a row"),
        (put("index.row", (1, 0), 0), "index.row, row 1: is before the sample above it"),
        (put("index.bounds.scale", 1, np.inf), "index.bounds.scale, row 1: is not finite"),
        (put("index.bounds.minimum", 0, np.nan), "index.bounds.minimum, row 0: is not finite"),
        (put("token.position", 5, 99), "token.position, row 6: is not sorted"),
    ],
)
def test_tables_that_break_a_rule_are_refused_by_row(
    tmp_path: Path, change: Callable[[Arrays], None], problem: str
) -> None:
    assert problem in verifying_fails(forge(tmp_path / "x", change))


def test_a_pointer_to_a_pointer_is_refused(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["sample.source"][:] = [0, 0, 1]

    assert verifying_fails(forge(tmp_path / "x", change)) == (
        "sample.source, row 2: is a pointer to a pointer"
    )


def test_a_shape_that_miscounts_the_stored_samples_is_refused(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["sample.source"][:] = [0, 1, 2]

    problem = "sample.source: 3 samples are no pointers, the shape says 2"
    assert problem in verifying_fails(forge(tmp_path / "x", change))


def test_a_shape_with_fewer_cells_than_the_tokens_name_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "x", shape=replace(SHAPE, rows=1, columns=2))
    assert verifying_fails(path) == "token.cell, row 3: is not a cell"


def test_the_forge_itself_makes_whole_files(tmp_path: Path) -> None:
    with CacheFile.open(forge(tmp_path / "x")) as cache:
        cache.verify()
