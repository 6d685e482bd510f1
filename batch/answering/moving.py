"""Where the rows of chosen samples stand when nothing else stands between them. Pure numpy.

Cells stand as the model's own layout of the chosen samples has them. Text takes as many positions
as are stored of it: a time may be told in more tokens than the layout's, and what stands before
the first sample of a segment belongs to no sample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.models.family import Layout


@dataclass(frozen=True, kw_only=True)
class Placed:
    """New positions of some rows, and of the question behind them."""

    positions: NDArray[np.int64]
    """[rows, axes]"""
    next_position: tuple[int, ...]


def place(layout: Layout, sample: NDArray[np.int64], cell: NDArray[np.int32]) -> Placed:
    """Give rows their positions.

    Args:
        layout: of the chosen samples.
        sample: [rows], number of the row's sample among the chosen; -1 is the text before all of
            them, and their count is the text behind all.
        cell: [rows]; -1 is text, which is in order within its sample.
    """
    samples = int(layout.sample.max()) + 1
    is_behind = (layout.sample < 0) & (np.maximum.accumulate(layout.sample) >= 0)
    group = np.where(is_behind, samples, layout.sample)
    there = layout.positions.astype(np.int64)
    positions = np.zeros((len(sample), there.shape[1]), np.int64)
    shift = 0
    for number in range(-1, samples + 1):
        slots, rows = np.flatnonzero(group == number), np.flatnonzero(sample == number)
        cells = slots[layout.cell[slots] >= 0]
        before, behind = _texts(slots, cells)
        texts = rows[cell[rows] < 0]
        split = max(0, len(texts) - len(behind))
        start = there[before[0]] if len(before) else _start(there, cells, layout)
        positions[texts[:split]] = start + shift + np.arange(split)[:, None]
        shift += split - len(before)
        is_cell = rows[cell[rows] >= 0]
        positions[is_cell] = there[cells[cell[is_cell]]] + shift
        if len(behind):
            positions[texts[split:]] = (
                there[behind[0]] + shift + np.arange(len(texts) - split)[:, None]
            )
            shift += len(texts) - split - len(behind)
    ends = tuple(int(place) + shift for place in layout.next_position)
    return Placed(positions=positions, next_position=ends)


def _texts(
    slots: NDArray[np.int64], cells: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The text slots before the cells of a sample, and those behind; without cells, before."""
    if not len(cells):
        return slots, slots[:0]
    return slots[slots < cells[0]], slots[slots > cells[-1]]


def _start(there: NDArray[np.int64], cells: NDArray[np.int64], layout: Layout) -> NDArray[np.int64]:
    """Where text stands that the layout has not: before the cells, or where the question would."""
    return there[cells[0]] if len(cells) else np.asarray(layout.next_position)
