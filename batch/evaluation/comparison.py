"""A whole comparison: its runs, its rows and tables, and what it was made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from batch.evaluation import grids
from batch.evaluation.bench.measuring import machine, versions
from batch.evaluation.data import QuestionSet
from batch.evaluation.external import read_external
from batch.evaluation.runs import Entry, Run, evaluate
from batch.evaluation.table import Row, tabulate
from batch.models import Family
from batch.models.weights import dtype_name
from batch.report.grid import Grid
from batch.video import Sampling


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods over the same questions.

    `circumstances` are plain values: model, sets, machine and versions.
    """

    runs: Sequence[Run]
    circumstances: dict[str, Any]

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each method."""
        return tabulate(self.runs)

    @cached_property
    def grids(self) -> list[Grid]:
        """Every table."""
        return [
            grids.quality(self.rows),
            grids.memory(self.rows, self.runs),
            grids.time(self.rows, self.runs),
            *self.shares,
        ]

    @cached_property
    def shares(self) -> list[Grid]:
        """The tables of accuracy by kind of question and by set."""
        return [grids.kinds(self.runs), grids.sets(self.runs)]

    def to_dict(self) -> dict[str, Any]:
        """Everything but single answers, as plain values."""
        return {
            **self.circumstances,
            "methods": [row.to_dict() for row in self.rows],
            **{grid.title: _by_column(grid) for grid in self.shares},
        }


def compare(
    family: Family,
    sets: Sequence[QuestionSet],
    entries: Sequence[Entry],
    rows: Sequence[Path],
    *,
    folder: Path,
    sampling: Sampling,
    tell: Callable[[int], object],
) -> Comparison:
    """Run every entry over every set, and add the answers of methods that ran elsewhere.

    Args:
        family: a loaded model.
        rows: files as `read_external` takes them.
        folder: for the one cache file that exists at a time.
        tell: told of each finished video.

    Raises:
        BatchError: a video, a question, a budget or a file of rows cannot be used.
    """
    found = evaluate(family, sets, entries, folder=folder, sampling=sampling, tell=tell)
    runs = list(found)
    runs += [run for path in rows for run in read_external(path, runs)]
    return Comparison(
        runs=runs,
        circumstances={
            "model": family.checkpoint.name,
            "dtype": dtype_name(family.model.dtype),
            "device": family.device.type,
            "sets": [_describe(data) for data in sets],
            "machine": machine(),
            "versions": versions(),
        },
    )


def _describe(data: QuestionSet) -> dict[str, Any]:
    videos = {question.video for question in data.questions}
    return {
        "name": data.name,
        "videos": len(videos),
        "questions": len(data.questions),
        "absent_videos": len(data.absent),
    }


def _by_column(grid: Grid) -> dict[str, dict[str, float]]:
    return {
        row[0]: {name: float(cell) for name, cell in zip(grid.head[1:], row[1:], strict=True)}
        for row in grid.rows
    }
