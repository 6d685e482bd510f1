"""Write a comparison down: RESULTS.md, and beside it a folder with figures and data."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from batch.evaluation.answers import write_answers
from batch.evaluation.comparison import Comparison
from batch.evaluation.figures import (
    draw_bytes_over_time,
    draw_failure,
    draw_pareto,
    draw_tiers_over_time,
    failures,
)
from batch.evaluation.methods import ABLATIONS, DEFAULT
from batch.evaluation.runs import Entry
from batch.evaluation.storing import PreparedVideo

FOLDER = "results"
FAILURES = 5
_LEGEND = (
    "Tiers in pictures: red FP16, orange INT8, blue INT4, dark: nothing stored. Under each sample "
    "of a failure the same one in the colours of its tiers; `3 -> 2` is a pointer to sample 2."
)
Prepare = Callable[[Path], PreparedVideo]

_DRAWN = Entry(method=DEFAULT).label
"""The method whose tiers and failures are drawn."""


def publish(comparison: Comparison, out: Path, command: str, prepare: Prepare) -> None:
    """Write everything; files of an earlier run are replaced.

    Args:
        out: RESULTS.md goes there, the rest to `results` in it.
        command: what was typed.
        prepare: opens a video again, for pictures.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_answers(comparison.runs, folder / "answers.parquet")
    (folder / "table.json").write_text(
        json.dumps({"command": command, **comparison.to_dict()}, indent=1) + "\n"
    )
    captions = {**_figures(comparison, folder), **_failures(comparison, folder, prepare)}
    (out / "RESULTS.md").write_text("\n".join(_markdown(comparison, command, captions)))


def _figures(comparison: Comparison, folder: Path) -> dict[str, str]:
    """Draw what all videos and the longest one show; captions by the names of files."""
    ablations = [Entry(method=method).label for method in ABLATIONS[1:]]
    shown = [row for row in comparison.rows if row.label not in ablations]
    draw_pareto(shown, folder / "pareto.png")
    captions = {
        "pareto.png": "Accuracy against bytes of the whole file; 95 % intervals over videos."
    }
    own = [run for run in comparison.runs if run.label == _DRAWN]
    if own:
        longest = max(own, key=lambda run: run.samples)
        draw_tiers_over_time(longest, folder / "tiers.png")
        same = [
            run
            for run in comparison.runs
            if (run.data, run.video) == (longest.data, longest.video) and run.label.budget is None
        ]
        draw_bytes_over_time(same, folder / "bytes.png")
        captions["tiers.png"] = "Figure 2: tiers of the cells of each sample."
        captions["bytes.png"] = "Figure 3: bytes of K and V as the video goes on."
    return captions


def _failures(comparison: Comparison, folder: Path, prepare: Prepare) -> dict[str, str]:
    """Draw the worst failures; captions by the names of files."""
    own = [run for run in comparison.runs if run.label == _DRAWN]
    captions = {}
    for number, (run, one) in enumerate(failures(own, FAILURES), 1):
        question, name = one.question, f"failure-{number}.jpg"
        video = prepare(question.video)
        manifest = video.manifest(DEFAULT.temporal, DEFAULT.thresholds)
        draw_failure(video.pictures, manifest, folder / name)
        captions[name] = (
            f"Failure {number}, {run.data}, {run.video}, {question.kind or 'question'}: "
            f"{question.question!r}: {question.answer!r}, uncompressed {one.reference!r}, "
            f"{_DRAWN} {one.answer!r}."
        )
    return captions


def _markdown(comparison: Comparison, command: str, captions: Mapping[str, str]) -> list[str]:
    lines = ["# Results", "", *_circumstances(comparison, command), ""]
    for table in comparison.tables:
        lines += table.to_markdown()
    lines += ["## Figures", "", _LEGEND, ""]
    for name, caption in captions.items():
        lines += [f"![{name}]({FOLDER}/{name})", "", caption, ""]
    return lines


def _circumstances(comparison: Comparison, command: str) -> list[str]:
    found = comparison.circumstances
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    sets = "; ".join(
        f"{one['name']}: {one['videos']} videos, {one['questions']} questions"
        for one in found["sets"]
    )
    void = comparison.rows[0].void
    return [
        *([f"VOID: {void}.", ""] if void else []),
        f"Made by `{command}`.",
        "",
        f"Model {found['model']}, {found['dtype']}, on {found['device']}. {sets}.",
        "",
        f"Machine: {machine}. Versions: {versions}.",
    ]
