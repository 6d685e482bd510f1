"""A whole comparison: its rows and tables, what it was made of, and how it is written down."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from batch.errors import BatchError
from batch.evaluation import figures, tables
from batch.evaluation.answers import read_external, write_answers
from batch.evaluation.data import QuestionSet
from batch.evaluation.measuring import machine, versions
from batch.evaluation.methods import ABLATIONS, DEFAULT
from batch.evaluation.runs import Entry, Run
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.summary import Row, tabulate
from batch.evaluation.tables import Table
from batch.report.sheets import write_sheet

_FOLDER = "results"
_FAILURES = 5
_LEGEND = (
    "Tiers in pictures: red FP16, orange INT8, blue INT4, dark: nothing stored. Of a failure all "
    "stored samples in the colours of their tiers, with how many samples each stands for."
)
_DRAWN = Entry(method=DEFAULT).label
"""The method whose tiers and failures are drawn."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Methods over the same questions, as one judge answers them.

    - model, dtype, device: what answered. prepare: opens a film again, for pictures; None of text.
    """

    judge: str
    model: str
    dtype: str
    device: str
    sets: Sequence[QuestionSet]
    runs: Sequence[Run]
    prepare: Callable[[Path], PreparedVideo] | None = None

    @cached_property
    def rows(self) -> list[Row]:
        return tabulate(self.runs, self.judge)

    def to_dict(self) -> dict[str, Any]:
        """What is not in its rows, as plain values."""
        return {
            **{name: getattr(self, name) for name in ("judge", "model", "dtype", "device")},
            "sets": [
                {
                    "name": data.name,
                    "videos": len({question.video for question in data.questions}),
                    "questions": len(data.questions),
                    "absent_videos": len(data.absent),
                }
                for data in self.sets
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods before judges."""

    judged: Sequence[Judged]

    @property
    def rows(self) -> list[Row]:
        return [row for one in self.judged for row in one.rows]

    @property
    def tables(self) -> list[Table]:
        rows = self.rows
        return [
            tables.quality_table(rows),
            tables.memory_table(rows),
            tables.time_table(rows),
            tables.accuracy_table(
                "Accuracy by kind of question", lambda run, one: one.question.kind, rows
            ),
            tables.accuracy_table("Accuracy by question set", lambda run, one: run.data, rows),
        ]

    def voids(self) -> list[str]:
        """Of which judges the comparison proves nothing, and why."""
        found = [(one.judge, one.rows[0].void) for one in self.judged]
        return [f"VOID, {judge}: {void}" for judge, void in found if void is not None]

    def to_text(self) -> list[str]:
        """Lines of every table; first of all, whether the comparison proves nothing."""
        lines = [line for table in self.tables for line in ["", table.title, *table.to_text()]]
        return [*self.voids(), *lines] if self.voids() else lines[1:]

    def to_json(self) -> list[str]:
        """A line a row."""
        return [json.dumps(row.to_dict()) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Everything but single answers, as plain values."""
        return {
            "machine": machine(),
            "versions": versions(),
            "judges": [one.to_dict() for one in self.judged],
            "methods": [row.to_dict() for row in self.rows],
        }


def join_rows(judged: Sequence[Judged], path: Path) -> list[Judged]:
    """Add the runs of a file, as `read_external` takes it, to the judge of whose films they are.

    Raises:
        BatchError: as of that, or films have these names before no judge, or before several.
    """
    found = [replace(one, runs=[*one.runs, *read_external(path, one.runs)]) for one in judged]
    joined = sum(len(one.runs) > len(own.runs) for one, own in zip(found, judged, strict=True))
    if joined != 1:
        raise BatchError(
            f"{path}: answers about films of {joined} judges that were asked, expected of 1; run "
            "it on the same films"
        )
    return found


def publish(comparison: Comparison, out: Path, command: str) -> None:
    """Write RESULTS.md and, to `results` beside it, the rest; older files are replaced.

    Args:
        command: what was typed.
    """
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_answers({one.judge: one.runs for one in comparison.judged}, folder / "answers.parquet")
    found = comparison.to_dict()
    (folder / "table.json").write_text(json.dumps({"command": command, **found}, indent=1) + "\n")
    captions = [_draw_judges(comparison, folder)]
    for one in [one for one in comparison.judged if one.prepare is not None][:1]:
        captions += _draw(one, folder)
    (out / "RESULTS.md").write_text("\n".join(_markdown(comparison, command, found, captions)))


def _draw_judges(comparison: Comparison, folder: Path) -> tuple[str, str]:
    """Name and caption of the plot of all methods and judges."""
    ablations = [Entry(method=method).label for method in ABLATIONS[1:]]
    shown = [row for row in comparison.rows if row.label not in ablations]
    figures.draw_judges(shown, folder / "judges.png")
    return (
        "judges.png",
        (
            "What is kept against bytes of the whole file, of other tools K and V alone; bars: 95 "
            "% intervals over videos or texts. Grey: all of it; blue: chosen before the model "
            "runs; red: rows dropped; orange: rows merged; green: fewer bits; purple: other "
            "tools; black: ours. Dashed: without the video or text. Named are ours, and the best "
            "of each kind at three tenths of the bytes or less."
        ),
    )


def _draw(judged: Judged, folder: Path) -> Iterator[tuple[str, str]]:
    """Draw what there is to see of films; yields names of files and captions."""
    prepare = judged.prepare
    own = [run for run in judged.runs if run.label == _DRAWN]
    if not own or prepare is None:
        return
    longest = max(own, key=lambda run: run.samples)
    figures.draw_tiers_over_time(longest, folder / "tiers.png")
    yield "tiers.png", "Figure 2: tiers of the cells of each sample."
    same = [
        run
        for run in judged.runs
        if (run.data, run.video) == (longest.data, longest.video) and run.label.budget is None
    ]
    figures.draw_bytes_over_time(same, folder / "bytes.png")
    yield "bytes.png", "Figure 3: bytes of K and V as the video goes on."
    for number, (run, one) in enumerate(figures.failures(own, _FAILURES), 1):
        question, name = one.question, f"failure-{number}.jpg"
        manifest = prepare(question.video).manifest(DEFAULT.temporal, DEFAULT.thresholds)
        write_sheet(manifest, manifest.tier, folder / name)
        yield (
            name,
            f"Failure {number}, {run.data}, {run.video}, {question.kind or 'question'}: "
            f"{question.question!r}: {question.answer!r}, uncompressed {one.reference!r}, "
            f"{_DRAWN} {one.answer!r}.",
        )


def _markdown(
    comparison: Comparison,
    command: str,
    found: Mapping[str, Any],
    captions: Sequence[tuple[str, str]],
) -> list[str]:
    on_machine, by_versions = (
        ", ".join(f"{name} {value}" for name, value in found[what].items())
        for what in ("machine", "versions")
    )
    lines = ["# Results", ""]
    for void in comparison.voids():
        lines += [f"{void}.", ""]
    lines += [f"Made by `{command}`.", ""]
    for one in found["judges"]:
        sets = "; ".join(
            f"{own['name']}: {own['videos']} videos, {own['questions']} questions"
            for own in one["sets"]
        )
        about = f"{one['model']}, {one['dtype']}, on {one['device']}. {sets}"
        lines += [f"Judge {one['judge']}: model {about}.", ""]
    lines += [f"Machine: {on_machine}. Versions: {by_versions}.", ""]
    for table in comparison.tables:
        lines += table.to_markdown()
    lines += ["## Figures", "", _LEGEND, ""]
    for name, caption in captions:
        lines += [f"![{name}]({_FOLDER}/{name})", "", caption, ""]
    return lines
