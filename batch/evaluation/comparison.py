"""A whole comparison: its rows and tables, what it was made of, and how it is written down."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from batch.evaluation import figures, tables
from batch.evaluation.answers import read_external, write_answers
from batch.evaluation.data import QuestionSet
from batch.evaluation.measuring import machine, versions
from batch.evaluation.methods import ABLATIONS, DEFAULT
from batch.evaluation.runs import Entry, Run
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.summary import Row, tabulate
from batch.evaluation.tables import Table
from batch.models import Family
from batch.models.checkpoint import dtype_name

_FOLDER = "results"
_FAILURES = 5
_LEGEND = (
    "Tiers in pictures: red FP16, orange INT8, blue INT4, dark: nothing stored. Under each sample "
    "of a failure the same one in the colours of its tiers; `3 -> 2` is a pointer to sample 2."
)
_DRAWN = Entry(method=DEFAULT).label
"""The method whose tiers and failures are drawn."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods over the same questions.

    `circumstances` are plain values: judge, model, sets, machine and versions.
    """

    runs: Sequence[Run]
    circumstances: dict[str, Any]

    @cached_property
    def rows(self) -> list[Row]:
        return tabulate(self.runs, self.circumstances["judge"])

    @cached_property
    def tables(self) -> list[Table]:
        costs = [
            tables.quality_table(self.rows),
            tables.memory_table(self.rows),
            tables.time_table(self.rows),
        ]
        return [*costs, *self._accuracies]

    @cached_property
    def _accuracies(self) -> list[Table]:
        return [
            tables.accuracy_table(
                "Accuracy by kind of question", lambda run, one: one.question.kind, self.rows
            ),
            tables.accuracy_table("Accuracy by question set", lambda run, one: run.data, self.rows),
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
    runs: Sequence[Run],
    rows: Sequence[Path],
    family: Family,
    sets: Sequence[QuestionSet],
    *,
    judge: str,
) -> Comparison:
    """Compare runs with each other and with rows, files as `read_external` takes them."""
    return Comparison(
        runs=[*runs, *(run for path in rows for run in read_external(path, runs))],
        circumstances={
            "judge": judge,
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


def publish(
    comparison: Comparison, out: Path, command: str, prepare: Callable[[Path], PreparedVideo]
) -> None:
    """Write RESULTS.md and, to `results` beside it, the rest; older files are replaced.

    Args:
        command: what was typed.
        prepare: opens a video again, for pictures.
    """
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_answers(comparison.runs, folder / "answers.parquet")
    (folder / "table.json").write_text(
        json.dumps({"command": command, **comparison.to_dict()}, indent=1) + "\n"
    )
    captions = list(_draw(comparison, folder, prepare))
    (out / "RESULTS.md").write_text("\n".join(_markdown(comparison, command, captions)))


def _draw(
    comparison: Comparison, folder: Path, prepare: Callable[[Path], PreparedVideo]
) -> Iterator[tuple[str, str]]:
    """Draw what there is to see; yields names of files and captions."""
    ablations = [Entry(method=method).label for method in ABLATIONS[1:]]
    shown = [row for row in comparison.rows if row.label not in ablations]
    figures.draw_pareto(shown, folder / "pareto.png")
    yield (
        "pareto.png",
        (
            "Right answers kept against bytes of the whole file, of other tools K and V alone; "
            "95 % intervals over videos. Grey: all of it; blue: chosen before the model runs; "
            "red: rows dropped; orange: rows merged; green: fewer bits; purple: other tools; "
            "black: ours."
        ),
    )
    own = [run for run in comparison.runs if run.label == _DRAWN]
    if not own:
        return
    longest = max(own, key=lambda run: run.samples)
    figures.draw_tiers_over_time(longest, folder / "tiers.png")
    yield "tiers.png", "Figure 2: tiers of the cells of each sample."
    same = [
        run
        for run in comparison.runs
        if (run.data, run.video) == (longest.data, longest.video) and run.label.budget is None
    ]
    figures.draw_bytes_over_time(same, folder / "bytes.png")
    yield "bytes.png", "Figure 3: bytes of K and V as the video goes on."
    for number, (run, one) in enumerate(figures.failures(own, _FAILURES), 1):
        question, name = one.question, f"failure-{number}.jpg"
        video = prepare(question.video)
        manifest = video.manifest(DEFAULT.temporal, DEFAULT.thresholds)
        figures.draw_failure(video.pictures, manifest, folder / name)
        yield (
            name,
            f"Failure {number}, {run.data}, {run.video}, {question.kind or 'question'}: "
            f"{question.question!r}: {question.answer!r}, uncompressed {one.reference!r}, "
            f"{_DRAWN} {one.answer!r}.",
        )


def _markdown(
    comparison: Comparison, command: str, captions: Sequence[tuple[str, str]]
) -> list[str]:
    found, void = comparison.circumstances, comparison.rows[0].void
    on_machine, by_versions = (
        ", ".join(f"{name} {value}" for name, value in found[what].items())
        for what in ("machine", "versions")
    )
    sets = "; ".join(
        f"{one['name']}: {one['videos']} videos, {one['questions']} questions"
        for one in found["sets"]
    )
    lines = [
        *("# Results", ""),
        *([f"VOID: {void}.", ""] if void else []),
        *(f"Made by `{command}`.", ""),
        *(f"Model {found['model']}, {found['dtype']}, on {found['device']}. {sets}.", ""),
        *(f"Machine: {on_machine}. Versions: {by_versions}.", ""),
    ]
    for table in comparison.tables:
        lines += table.to_markdown()
    lines += ["## Figures", "", _LEGEND, ""]
    for name, caption in captions:
        lines += [f"![{name}]({_FOLDER}/{name})", "", caption, ""]
    return lines
