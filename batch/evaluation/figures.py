"""Pictures of a comparison: curves and bars by matplotlib (of the extra `evaluate`), failures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.evaluation.runs import CELL_STATES, AnsweredQuestion, Label, Run
from batch.evaluation.summary import Row
from batch.report.tiers import INK, tint
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
_TILE_PX = 112
_TILES_A_ROW = 8


def draw_pareto(rows: Sequence[Row], path: Path) -> None:
    """Right answers kept against bytes, a numbered point with its interval for each row.

    A line joins a method's budgets; what it stores by itself stands apart, for it may give one
    video more than another.
    """
    figure, axes = _start("bytes, as a share of FP16 K and V of all slots", "right answers kept")
    figure.set_size_inches(12.0, 7.0)
    for number, row in enumerate(rows, 1):
        _draw_point(axes, number, row)
    for own in _curves(rows):
        axes.plot(
            _shares(own),
            [one.figures["retained"].value or 0.0 for one in own],
            lw=0.6,
            c=_ink(own[0]),
        )
    axes.set_xscale("log")
    times = [128, 64, 32, 16, 8, 6, 5, 4, 3, 2, 1]
    axes.set_xticks([1 / one for one in times], [f"1/{one}" for one in times])
    axes.minorticks_off()
    figure.legend(fontsize="xx-small", loc="outside right upper", ncols=1 + len(rows) // 45)
    figure.savefig(path, dpi=150)


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


def draw_failure(pictures: NDArray[np.uint8], manifest: Manifest, path: Path) -> None:
    """A sheet of all samples, each over its tiers; a pointer names the sample it refers to.

    Args:
        pictures: uint8 RGB [samples, height, width, 3].
    """
    grid = (manifest.geometry.rows, manifest.geometry.columns)
    tiles, font = [], cv2.FONT_HERSHEY_SIMPLEX
    for sample, (rgb, source) in enumerate(zip(pictures, manifest.source, strict=True)):
        drawn = tint(rgb, manifest.tier[sample].reshape(grid), _TILE_PX)
        plain = cv2.resize(rgb, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
        text = f"{sample}" if source == sample else f"{sample} -> {source}"
        strip = np.full((18, _TILE_PX, 3), 255, np.uint8)
        cv2.putText(strip, text, (4, 14), font, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.vstack([strip, plain, drawn]))
    columns = min(_TILES_A_ROW, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _curves(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that are one line: a method's budgets, the smallest first."""
    curves: dict[Label, list[Row]] = defaultdict(list)
    for row in rows:
        if row.label.budget is not None:
            curves[replace(row.label, budget=None)].append(row)
    return [sorted(own, key=lambda row: _shares([row])[0]) for own in curves.values()]


def _draw_point(axes: Axes, number: int, row: Row) -> None:
    value, low, high = np.array(astuple(row.figures["retained"]), np.float64)
    reach = np.maximum([[value - low], [high - value]], 0)
    mark, size, z = ("*", 10, 3) if row.label.method in _OURS else ("o", 4, 2)
    share = _shares([row])[0]
    axes.errorbar(
        *(share, value, reach, None, mark),
        ms=size,
        zorder=z,
        label=f"{number} {row.label}",
        color=_ink(row),
        elinewidth=0.5,
    )
    if np.isfinite(value):
        axes.annotate(f" {number}", (share, value), fontsize=6)


def _shares(rows: Sequence[Row]) -> list[float]:
    """Of FP16 K and V of all slots."""
    return [1 / (row.figures["compression_fp16"].value or 1.0) for row in rows]


def _ink(row: Row) -> ColorType:
    return "black" if row.label.method in _OURS else _KINDS[row.runs[0].kind]


def _start(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")  # inches
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes
