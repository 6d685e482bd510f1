"""Write a comparison down: RESULTS.md, and beside it a folder with figures, a page and data."""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batch.evaluation.answers_file import write_answers
from batch.evaluation.comparison import Comparison
from batch.evaluation.failures import draw_failure, failures
from batch.evaluation.figures import draw_bytes_over_time, draw_pareto, draw_tiers_over_time
from batch.evaluation.methods import ABLATIONS, DEFAULT
from batch.evaluation.runs import Entry
from batch.evaluation.viewing import Viewing

FOLDER = "results"
FAILURES = 5
_LEGEND = (
    "Tiers in pictures: red FP16, orange INT8, blue INT4, dark: nothing stored. Under each sample "
    "of a failure the same one in the colours of its tiers; `3 -> 2` is a pointer to sample 2."
)
View = Callable[[Path], Viewing]

_DRAWN = Entry(policy=DEFAULT).label
"""The method whose tiers and failures are drawn."""

_STYLE = (
    "body{font:14px sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:2px 8px;border:1px solid #ccc;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with what it shows."""

    name: str
    caption: str


def publish(comparison: Comparison, out: Path, command: str, view: View) -> None:
    """Write everything; files of an earlier run are replaced.

    Args:
        out: RESULTS.md goes there, the rest to `results` in it.
        command: what was typed.
        view: opens a video again, for pictures.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_answers(comparison.runs, folder / "answers.parquet")
    (folder / "table.json").write_text(
        json.dumps({"command": command, **comparison.to_dict()}, indent=1) + "\n"
    )
    pictures = [*_figures(comparison, folder), *_failures(comparison, folder, view)]
    (out / "RESULTS.md").write_text("\n".join(_markdown(comparison, command, pictures)))
    (folder / "index.html").write_text("\n".join(_page(comparison, command, pictures)))


def _figures(comparison: Comparison, folder: Path) -> list[Picture]:
    ablations = [Entry(policy=policy).label for policy in ABLATIONS[1:]]
    shown = [row for row in comparison.rows if row.label not in ablations]
    draw_pareto(shown, folder / "pareto.png")
    pictures = [
        Picture(
            name="pareto.png",
            caption="Accuracy against bytes of the whole file; 95 % intervals over videos.",
        )
    ]
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
        pictures += [
            Picture(name="tiers.png", caption="Figure 2: tiers of the cells of each sample."),
            Picture(name="bytes.png", caption="Figure 3: bytes of K and V as the video goes on."),
        ]
    return pictures


def _failures(comparison: Comparison, folder: Path, view: View) -> list[Picture]:
    own = [run for run in comparison.runs if run.label == _DRAWN]
    pictures = []
    for number, (run, one) in enumerate(failures(own, FAILURES), 1):
        viewing = view(one.question.video)
        manifest = viewing.manifest(DEFAULT.temporal, DEFAULT.thresholds)
        name = f"failure-{number}.jpg"
        draw_failure(viewing.pictures, manifest, folder / name)
        question = one.question
        pictures.append(
            Picture(
                name=name,
                caption=(
                    f"Failure {number}, {run.data}, {run.video}, {question.kind or 'question'}: "
                    f"{question.question!r}: {question.answer!r}, uncompressed {one.reference!r}, "
                    f"{_DRAWN} {one.answer!r}."
                ),
            )
        )
    return pictures


def _markdown(comparison: Comparison, command: str, pictures: Sequence[Picture]) -> list[str]:
    lines = ["# Results", "", *_circumstances(comparison, command), ""]
    for grid in comparison.grids:
        lines += grid.to_markdown()
    lines += ["## Figures", "", _LEGEND, ""]
    for picture in pictures:
        lines += [f"![{picture.name}]({FOLDER}/{picture.name})", "", picture.caption, ""]
    return lines


def _page(comparison: Comparison, command: str, pictures: Sequence[Picture]) -> list[str]:
    told = (f"<p>{html.escape(line)}</p>" for line in _circumstances(comparison, command) if line)
    tables = (line for grid in comparison.grids for line in grid.to_html())
    drawn = (
        f'<figure><img src="{picture.name}"><figcaption>{html.escape(picture.caption)}'
        "</figcaption></figure>"
        for picture in pictures
    )
    return [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results</title>',
        f"<style>{_STYLE}</style></head><body><h1>Results</h1>",
        *told,
        f"<p>{_LEGEND}</p>",
        *drawn,
        *tables,
        "</body></html>",
    ]


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
