"""Pictures of a comparison: curves and bars by matplotlib (of the extra `evaluate`), failures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import cv2
import matplotlib as mpl
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
_OURS = "sali-cache"
_OURS_INK: dict[str, ColorType] = {f"{_OURS} default": "black", f"{_OURS} paper": "red"}
_TILE_PX = 112
_TILES_A_ROW = 8


def draw_pareto(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against bytes, a point for each row.

    A line joins a method's budgets; what it stores by itself stands apart, for it may give one
    video more than another.
    """
    figure, axes = _start("share of the FP16 K and V of all slots", "accuracy")
    colours = iter(mpl.color_sequences["tab20"])
    for name, own in _curves(rows).items():
        _draw_curve(axes, name, own, _OURS_INK.get(name) or next(colours))
    axes.set_xscale("log")
    times = [16, 12, 8, 6, 5, 4, 3, 2, 1]
    axes.set_xticks([1 / one for one in times], [f"1/{one}" for one in times])
    axes.minorticks_off()
    figure.legend(fontsize="x-small", loc="outside right upper")
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
            ours = run.label.method == _OURS
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


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """What is one line: a profile at its budgets, or all profiles of a method without budgets."""
    with_budget = {row.label.method for row in rows if row.label.budget is not None}
    curves: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        profile = row.label.profile if row.label.method in with_budget else None
        curves[str(Label(method=row.label.method, profile=profile))].append(row)
    return curves


def _draw_curve(axes: Axes, name: str, rows: Sequence[Row], colour: ColorType) -> None:
    ours = name.startswith(_OURS)
    shares = np.array([1 / (row.figures["compression_fp16"].value or 1.0) for row in rows])
    accuracy = np.array([astuple(row.figures["accuracy"]) for row in rows], np.float64)
    value, low, high = accuracy.T
    reach = np.maximum([value - low, high - value], 0)
    mark, size, z = ("*", 11, 3) if ours else ("o", 5, 2)
    axes.errorbar(
        shares, value, reach, fmt=mark, ms=size, zorder=z, label=name, color=colour, elinewidth=0.5
    )
    bounded = [row.label.budget is not None for row in rows]
    joined = np.flatnonzero(bounded if any(bounded) else np.ones(len(rows)))
    joined = joined[np.argsort(shares[joined])]
    axes.plot(shares[joined], value[joined], color=colour, linewidth=1.6 if ours else 0.8)


def _start(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")  # inches
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes
