"""Times of a video: how long its samples are on screen, and ranges as people read them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TimeRange:
    """Seconds of the video, half-open: [start_s, stop_s)."""

    start_s: float
    stop_s: float

    def __str__(self) -> str:
        # Tenths where whole seconds would name no time at all.
        is_short = int(self.start_s) == int(self.stop_s)
        return "-".join(_clock(time_s, tenths=is_short) for time_s in (self.start_s, self.stop_s))


def _clock(seconds: float, *, tenths: bool) -> str:
    whole = int(seconds)
    text = f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{text}.{int(seconds % 1 * 10)}" if tenths else text


def usual_gap_s(time_s: NDArray[np.float64]) -> float:
    """Median time between samples, above 0; one second where there is none."""
    gap_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0
    return gap_s if gap_s > 0 else 1.0


def length_s(time_s: NDArray[np.float64]) -> float:
    """Of a video with samples at these times, the last on screen as long as others usually are.

    It is what a minute is counted by, wherever one is: files know no more of a video than this.
    """
    return float(time_s[-1] - time_s[0]) + usual_gap_s(time_s)
