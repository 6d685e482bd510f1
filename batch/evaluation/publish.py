"""Write a comparison down: RESULTS.md, and beside it a folder with figures and data."""

import json
from collections.abc import Callable, Iterator, Mapping
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
    """Write RESULTS.md and, to `results` beside it, the rest; older files are replaced.

    Args:
        command: what was typed.
        prepare: opens a video again, for pictures.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_answers(comparison.runs, folder / "answers.parquet")
    (folder / "table.json").write_text(
        json.dumps({"command": command, **comparison.to_dict()}, indent=1) + "\n"
    )
    captions = dict(_draw(comparison, folder, prepare))
    (out / "RESULTS.md").write_text("\n".join(_markdown(comparison, command, captions)))


def _draw(comparison: Comparison, folder: Path, prepare: Prepare) -> Iterator[tuple[str, str]]:
    """Draw what there is to see; yields names of files and captions."""
    ablations = [Entry(method=method).label for method in ABLATIONS[1:]]
    shown = [row for row in comparison.rows if row.label not in ablations]
    draw_pareto(shown, folder / "pareto.png")
    yield "pareto.png", "Accuracy against bytes of the whole file; 95 % intervals over videos."
    own = [run for run in comparison.runs if run.label == _DRAWN]
    if not own:
        return
    longest = max(own, key=lambda run: run.samples)
    draw_tiers_over_time(longest, folder / "tiers.png")
    yield "tiers.png", "Figure 2: tiers of the cells of each sample."
    same = [
        run
        for run in comparison.runs
        if (run.data, run.video) == (longest.data, longest.video) and run.label.budget is None
    ]
    draw_bytes_over_time(same, folder / "bytes.png")
    yield "bytes.png", "Figure 3: bytes of K and V as the video goes on."
    for number, (run, one) in enumerate(failures(own, FAILURES), 1):
        question, name = one.question, f"failure-{number}.jpg"
        video = prepare(question.video)
        manifest = video.manifest(DEFAULT.temporal, DEFAULT.thresholds)
        draw_failure(video.pictures, manifest, folder / name)
        yield (
            name,
            f"Failure {number}, {run.data}, {run.video}, {question.kind or 'question'}: "
            f"{question.question!r}: {question.answer!r}, uncompressed {one.reference!r}, "
            f"{_DRAWN} {one.answer!r}.",
        )


def _markdown(comparison: Comparison, command: str, captions: Mapping[str, str]) -> list[str]:
    found, void = comparison.circumstances, comparison.rows[0].void
    machine, versions = (
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
        *(f"Machine: {machine}. Versions: {versions}.", ""),
    ]
    for table in comparison.tables:
        lines += table.to_markdown()
    lines += ["## Figures", "", _LEGEND, ""]
    for name, caption in captions.items():
        lines += [f"![{name}]({FOLDER}/{name})", "", caption, ""]
    return lines
