"""The rules of FORMAT.md for the small tables of a file, checked on numpy arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachefmt.header import Shape
from cachefmt.layout import BOUNDS
from cachefmt.tiers import STORED_TIERS

Column = Callable[[str], NDArray[Any]]


def check_tables(shape: Shape, column: Column) -> None:
    """Check the tables against FORMAT.md; column returns a whole tensor by its name.

    Raises:
        ValueError: names the tensor and the first row that breaks a rule.
    """
    check_cost(column("cost.seconds"))
    check_index(shape, column)
    source = column("sample.source")
    is_stored = source == np.arange(len(source))
    _check_tokens(shape, column, is_stored)
    stored = np.flatnonzero(is_stored)
    for tier, found in zip(STORED_TIERS, column("index.row").T, strict=True):
        rows = shape.rows_of(tier)
        _check_order(shape, column, rows)
        expected = first_rows(column("token.sample")[rows.start : rows.stop], stored)
        _refuse("index.row", found != expected, f"is not where its sample begins in {tier.name}")


def check_cost(seconds: NDArray[np.float64]) -> None:
    """As `check_tables`, of cost.seconds."""
    is_bad = ~(np.isfinite(seconds) & (seconds >= 0))
    _refuse("cost.seconds", is_bad, "is negative or not finite")


def check_index(shape: Shape, column: Column) -> None:
    """As `check_tables`, of sample.* and index.* as far as that needs no token tables."""
    time_s, source = column("sample.time_s"), column("sample.source")
    _refuse("sample.time_s", ~np.isfinite(time_s), "is not finite")
    _refuse("sample.time_s", _falls(time_s), "is before the sample above it")
    index = np.arange(len(source))
    _refuse("sample.source", (source < 0) | (source > index), "is not the sample or an earlier one")
    _refuse("sample.source", source[source] != source, "is a pointer to a pointer")
    stored = int((source == index).sum())
    if stored != shape.stored_samples:
        raise ValueError(
            f"sample.source: {stored} samples are no pointers, the shape says "
            f"{shape.stored_samples}"
        )
    for tier, row in zip(STORED_TIERS, column("index.row").T, strict=True):
        _refuse("index.row", (row < 0) | (row > shape.tokens[tier.name]), "is not a row")
        _refuse("index.row", _falls(row), "is before the sample above it")
    for name in BOUNDS[1:]:  # all but the codes
        _refuse(name, np.any(~np.isfinite(column(name)), axis=(1, 2, 3, 4)), "is not finite")


def _check_tokens(shape: Shape, column: Column, is_stored: NDArray[np.bool_]) -> None:
    sample, cell = column("token.sample"), column("token.cell")
    cells = shape.rows * shape.columns
    _refuse("token.position", np.any(column("token.position") < 0, axis=-1), "is negative")
    _refuse("token.sample", (sample < -1) | (sample >= len(is_stored)), "is not a sample")
    _refuse("token.cell", (cell < -1) | (cell >= cells), "is not a cell")
    _refuse("token.cell", (cell >= 0) & (sample < 0), "is a cell of no sample")
    if len(is_stored):
        _refuse(
            "token.sample", (cell >= 0) & ~is_stored[sample], "is a pointer, which has no cells"
        )
    _refuse("token.multiplicity", column("token.multiplicity") < 1, "is below 1")


def _check_order(shape: Shape, column: Column, rows: range) -> None:
    """Within a tier: samples in order, a sample's cells in order, positions in order."""
    first, last = rows.start, rows.stop
    sample, cell = column("token.sample")[first:last], column("token.cell")[first:last]
    problem = "is not sorted: it is out of order within its tier"
    in_sample, is_cell = np.flatnonzero(sample >= 0), np.flatnonzero(cell >= 0)
    _refuse("token.sample", _falls(sample[in_sample]), problem, first + in_sample)
    # In slots' order a cell's number rises until the next sample begins.
    same_sample = np.diff(sample[is_cell], prepend=-1) == 0
    falls = np.diff(cell[is_cell], prepend=-1) <= 0
    _refuse("token.cell", same_sample & falls, problem, first + is_cell)
    if shape.position_axes == 1:  # with more axes, slots may share a position
        position = column("token.position")[first:last, 0]
        _refuse("token.position", np.diff(position, prepend=-1) <= 0, problem, first)


def first_rows(sample: NDArray[np.int32], stored: NDArray[np.intp]) -> NDArray[np.int32]:
    """Row at which each stored sample begins in a tier; text behind a sample goes with it.

    sample: of each row of the tier; stored: the samples that are no pointers, rising.
    """
    return np.searchsorted(np.maximum.accumulate(sample), stored).astype(np.int32)


def _falls(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.diff(values, prepend=values[:1]) < 0


def _refuse(
    name: str, is_bad: NDArray[np.bool_], problem: str, rows: NDArray[np.intp] | int = 0
) -> None:
    """Raise for the first bad entry; rows are the entries' rows, or the first one's."""
    if is_bad.any():
        entry = int(is_bad.argmax())
        row = rows + entry if isinstance(rows, int) else int(rows[entry])
        raise ValueError(f"{name}, row {row}: {problem}")
