"""A whole comparison: its runs, its rows and tables, and what it was made of."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from batch.evaluation.answers import read_external
from batch.evaluation.data import QuestionSet
from batch.evaluation.measure import Row, tabulate
from batch.evaluation.measuring import machine, versions
from batch.evaluation.runs import Entry, Run, evaluate
from batch.evaluation.tables import (
    Table,
    kinds_table,
    memory_table,
    quality_table,
    sets_table,
    time_table,
)
from batch.models import Family
from batch.models.checkpoint import dtype_name
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
    def tables(self) -> list[Table]:
        """Every table."""
        return [
            quality_table(self.rows),
            memory_table(self.rows, self.runs),
            time_table(self.rows, self.runs),
            *self.shares,
        ]

    @cached_property
    def shares(self) -> list[Table]:
        """The tables of accuracy by kind of question and by set."""
        return [kinds_table(self.runs), sets_table(self.runs)]

    def to_json_lines(self) -> list[str]:
        """A JSON object for each method."""
        return [json.dumps(row.to_dict()) for row in self.rows]

    def to_text(self) -> list[str]:
        """Lines of every table; first of all, whether the comparison proves nothing."""
        lines = [line for table in self.tables for line in ["", table.title, *table.to_text()]]
        void = self.rows[0].void
        return lines[1:] if void is None else [f"VOID: {void}", *lines]

    def to_dict(self) -> dict[str, Any]:
        """Everything but single answers, as plain values."""
        return {
            **self.circumstances,
            "methods": [row.to_dict() for row in self.rows],
            **{table.title: _by_column(table) for table in self.shares},
        }


def compare(
    family: Family,
    sets: Sequence[QuestionSet],
    entries: Sequence[Entry],
    rows: Sequence[Path],
    *,
    folder: Path,
    sampling: Sampling,
    report: Callable[[int], object],
) -> Comparison:
    """Run every entry over every set, and add the answers of methods that ran elsewhere.

    Args:
        family: a loaded model.
        rows: files as `read_external` takes them.
        folder: for the one cache file that exists at a time.
        report: called with 1 after each video.

    Raises:
        BatchError: a video, a question, a budget or a file of rows cannot be used.
    """
    found = evaluate(family, sets, entries, folder=folder, sampling=sampling, report=report)
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


def _by_column(table: Table) -> dict[str, dict[str, float]]:
    return {
        row[0]: {name: float(cell) for name, cell in zip(table.head[1:], row[1:], strict=True)}
        for row in table.rows
    }
