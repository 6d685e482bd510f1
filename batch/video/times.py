"""Times of a video, as people read them."""

from dataclasses import dataclass


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
