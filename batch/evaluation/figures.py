"""Pictures of a comparison, by matplotlib (of the extra `evaluate`), and which failures to show."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from batch.evaluation.runs import CELL_STATES, NO_VIDEO, AnsweredQuestion, Run
from batch.evaluation.summary import Row
from batch.report.tiers import INK
from cachefmt.tiers import Tier

_INKS = [*(INK[tier] for tier in Tier), (200, 200, 200)]
_OURS = ("sali-cache", "klt")
_KINDS: dict[str | None, ColorType] = {
    "whole": "gray",
    "before": "tab:blue",
    "eviction": "tab:red",
    "merging": "tab:orange",
    "bits": "tab:green",
    None: "tab:purple",
}
"""What a method does, None of those that ran elsewhere; ours are black."""
_CONTROLS = (NO_VIDEO.method, "nothing")
_KEPT = {"retained": "right answers kept", "agreement_em": "agreement"}
_NAMED_SHARE = 0.3
_FAR_LEFT = 1 / 12
"""At fewer bytes a point lies above its name, not at its right."""
_LINE = 0.065
"""Between names, in units of what is kept."""


def draw_judges(rows: Sequence[Row], path: Path) -> None:
    """What is kept against bytes: a column a judge, right answers above and the same ones below.

    A dashed line is what there is without a video or a text. Named are ours, and the best of each
    kind at _NAMED_SHARE of the bytes or less.
    """
    by_judge: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_judge[row.judge].append(row)
    figure = Figure(figsize=(10.0, 7.0), layout="constrained")  # inches
    panels = figure.subplots(2, len(by_judge), sharex="col", sharey="row", squeeze=False)
    for column, (judge, own) in zip(panels.T, by_judge.items(), strict=True):
        for axes, (name, title) in zip(column, _KEPT.items(), strict=True):
            _draw_panel(axes, own, name)
            if axes in panels[:, 0]:
                axes.set_ylabel(title)
        column[0].set_title(Path(judge).name, fontsize="medium")
        column[1].set_xlabel("bytes, as a share of FP16 K and V")
    marks = {"ours": "black", **{kind or "elsewhere": ink for kind, ink in _KINDS.items()}}
    handles = [
        Line2D([], [], color=ink, marker="*" if name == "ours" else "o", ls="", label=name)
        for name, ink in marks.items()
    ]
    figure.legend(handles=handles, fontsize="small", ncols=len(handles), loc="outside lower center")
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, rows: Sequence[Row], figure: str) -> None:
    """One figure of each row against its bytes."""
    known = [row for row in rows if row.figures[figure].value is not None]
    controls = [row for row in known if row.label.method in _CONTROLS]
    for row in controls:
        axes.axhline(row.figures[figure].value or 0.0, c="gray", lw=0.8, ls="--")
    drawn = [row for row in known if row not in controls]
    for row in drawn:
        value, low, high = np.array(astuple(row.figures[figure]), np.float64)
        is_ours = row.label.method in _OURS
        axes.errorbar(
            *(_share(row), value, np.maximum([[value - low], [high - value]], 0)),
            fmt="*" if is_ours else "o",
            ms=8 if is_ours else 3,
            zorder=3 if is_ours else 2,
            color=_ink(row),
            elinewidth=0.5,
        )
    axes.set_ylim(0.0, 1.15)
    axes.set_xscale("log")
    times = [128, 64, 32, 16, 8, 4, 2, 1]
    axes.set_xticks([1 / one for one in times], [f"1/{one}" for one in times], fontsize="small")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    _name(axes, drawn, figure)


def _name(axes: Axes, rows: Sequence[Row], figure: str) -> None:
    """Write names one below the other, at the left, each with a line to its point."""
    values = {row.label: row.figures[figure].value or 0.0 for row in rows}
    best: dict[str | None, Row] = {}
    for row in rows:
        if row.label.method in _OURS or _share(row) > _NAMED_SHARE:
            continue
        if row.kind not in best or values[row.label] > values[best[row.kind].label]:
            best[row.kind] = row
    named = [*best.values(), *(row for row in rows if row.label.method in _OURS)]
    height = 1.0
    for row in sorted(named, key=lambda row: (_share(row) > _FAR_LEFT, -values[row.label])):
        value = values[row.label]
        height = min(height - _LINE, max(value, _LINE))
        start = (1.0, 0.5) if _share(row) > _FAR_LEFT else (0.5, 1.0)
        axes.annotate(
            str(row.label),
            (_share(row), value),
            xytext=(0.03, height),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=6.5,
            color=_ink(row),
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": _ink(row), "relpos": start},
        )


def draw_tiers_over_time(run: Run, path: Path) -> None:
    """The paper's Figure 2: what becomes of the cells of each sample of one video."""
    if run.cell_states is None:
        raise ValueError(f"{run.label}: this method chooses no cells")
    figure, axes = _start("sample", "share of cells")
    shares = run.cell_states / run.cell_states.sum(axis=1, keepdims=True)
    places, bottom = np.arange(run.samples), np.zeros(run.samples)
    for state, ink, share in zip(CELL_STATES, _INKS, shares.T, strict=True):
        axes.bar(places, share, bottom=bottom, width=0.9, color=np.array(ink) / 255, label=state)
        bottom += share
    axes.set_title(f"{run.video}, {run.label}", fontsize="small")
    figure.legend(fontsize="x-small", ncols=len(CELL_STATES), loc="outside lower center")
    figure.savefig(path, dpi=150)


def draw_bytes_over_time(runs: Sequence[Run], path: Path) -> None:
    """The paper's Figure 3: bytes of K and V as one video goes on, a line for each method."""
    figure, axes = _start("samples seen", "K and V, MB")
    for run in runs:
        if run.sample_bytes is not None:
            held = np.cumsum(run.sample_bytes) / 1e6
            ours = run.label.method in _OURS
            axes.plot(range(1, run.samples + 1), held, label=str(run.label), lw=2.5 if ours else 1)
    axes.set_title(runs[0].video, fontsize="small")
    figure.legend(fontsize="x-small", loc="outside right upper")
    figure.savefig(path, dpi=150)


def failures(runs: Sequence[Run], most: int) -> list[tuple[Run, AnsweredQuestion]]:
    """Questions that the uncompressed model answers rightly and these runs do not.

    One a video, as long as there are others; those with the highest KL come first.
    """
    answers = [(run, one) for run in runs for one in run.answers]
    lost = [(run, one) for run, one in answers if one.is_reference_right and not one.is_right]
    lost.sort(key=lambda found: found[1].kl or 0.0, reverse=True)
    worst = {found[0].video: found for found in reversed(lost)}
    return sorted(lost, key=lambda found: worst[found[0].video] is not found)[:most]


def _share(row: Row) -> float:
    """Bytes of FP16 K and V of all slots."""
    return 1 / (row.figures["compression_fp16"].value or 1.0)


def _ink(row: Row) -> ColorType:
    return "black" if row.label.method in _OURS else _KINDS[row.kind]


def _start(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")  # inches
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes
