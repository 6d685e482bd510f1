"""A whole comparison: its runs, its rows and tables, and what it was made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from batch.evaluation.answers import read_external
from batch.evaluation.bench.measuring import machine, versions
from batch.evaluation.data import QuestionSet
from batch.evaluation.measure import Row, tabulate
from batch.evaluation.runs import Entry, Run, evaluate
from batch.evaluation.tables import (
    Table,
    accuracy_table,
    memory_table,
    quality_table,
    time_table,
)
from batch.models import Family
from batch.models.weights import dtype_name
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
        return tabulate(self.runs)

    @cached_property
    def tables(self) -> list[Table]:
        costs = [quality_table(self.rows), memory_table(self.rows), time_table(self.rows)]
        return [*costs, *self._accuracies]

    @cached_property
    def _accuracies(self) -> list[Table]:
        return [
            accuracy_table(
                "Accuracy by kind of question", lambda run, one: one.question.kind, self.rows
            ),
            accuracy_table("Accuracy by question set", lambda run, one: run.data, self.rows),
        ]

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
            **{
                table.title: {
                    name: dict(zip(table.head[1:], map(float, cells), strict=True))
                    for name, *cells in table.rows
                }
                for table in self._accuracies
            },
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
    runs = list(evaluate(family, sets, entries, folder=folder, sampling=sampling, report=report))
    runs += [run for path in rows for run in read_external(path, runs)]
    return Comparison(
        runs=runs,
        circumstances={
            "model": family.checkpoint.name,
            "dtype": dtype_name(family.model.dtype),
            "device": family.device.type,
            "sets": [
                {
                    "name": data.name,
                    "videos": len({question.video for question in data.questions}),
                    "questions": len(data.questions),
                    "absent_videos": len(data.absent),
                }
                for data in sets
            ],
            "machine": machine(),
            "versions": versions(),
        },
    )
