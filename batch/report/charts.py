"""Charts as paths of inline SVG, 1000 wide however wide they are shown. Knows numbers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 1000, 40
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_TICKS = 8
"""At most, on an axis."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Time from left to right."""

    start_s: float
    stop_s: float

    def x(self, time_s: float) -> float:
        """Where a time is, 0..1000."""
        length_s = max(self.stop_s - self.start_s, 1e-9)
        return round(WIDTH * min(max((time_s - self.start_s) / length_s, 0.0), 1.0), 1)

    def ticks_s(self) -> list[float]:
        """Round times, from the start on."""
        length_s = self.stop_s - self.start_s
        step_s = next((one for one in _STEPS_S if length_s / one <= _TICKS), None)
        if step_s is None:
            step_s = math.ceil(length_s / _TICKS / 3600) * 3600.0
        first = math.ceil(self.start_s / step_s - 1e-9)
        last = math.floor(self.stop_s / step_s + 1e-9)
        return [number * step_s for number in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A stretch of an axis: from `x`, so `wide`, of 1000."""

    x: float
    wide: float


@dataclass(frozen=True, kw_only=True)
class Area:
    """A value over time: `path` of SVG, and what its height stands for."""

    name: str
    path: str
    highest: str
    mean: str


def bar(axis: Axis, start_s: float, stop_s: float) -> Bar:
    """From one time to another; never so thin that nothing is seen."""
    x = axis.x(start_s)
    return Bar(x=x, wide=round(max(axis.x(stop_s) - x, 0.5), 1))


def area(
    axis: Axis, edges_s: Sequence[float] | NDArray[np.float64], values: NDArray[np.float64]
) -> str:
    """The path of steps from the ground up to each value; the largest value is 40 high.

    Of many values the largest of those that share a pixel is drawn.

    Args:
        edges_s: of each value its start, and the end of the last, [values + 1].
    """
    highest = float(values.max()) if len(values) else 0.0
    if highest <= 0:
        return ""
    together = -(-len(values) // WIDTH)
    starts = np.arange(0, len(values), together)
    tops = np.maximum.reduceat(values, starts) / highest
    edges = [axis.x(edges_s[at]) for at in [*starts.tolist(), len(values)]]
    parts = [f"M{edges[0]:g},{HEIGHT}"]
    for top, right in zip(tops, edges[1:], strict=True):
        parts.append(f"V{HEIGHT * (1 - top):.1f}H{right:g}")
    return f"{''.join(parts)}V{HEIGHT}Z"


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where flags are set without a gap: first and behind the last of each."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
