"""When each frame is on screen, whatever the file's clock says. Knows ticks; knows no decoder.

Clocks restart where files were joined, wrap, jump by hours, have a single frame stamped far off,
or tell the order of decoding for that of presentation. The order in which a decoder gives frames
is right; so a frame's time is believed if it goes on from the one before, and where it does not,
time goes on by a frame's usual length.
"""

import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol, TypeVar

LONGEST_STEP_S = 10
"""From one frame to the next, where clocks are known to jump (MPEG streams, FLV).

Source: `dts_delta_threshold` of ffmpeg 8, beyond which it takes a step for a discontinuity.
"""
LONGEST_HOLD_S = 3600
"""The same elsewhere, and where the frame itself says so: slides and screens stay for long."""
MOST_HELD_S = 24 * 3600
"""Of all steps above LONGEST_STEP_S in a video: what is above is a clock at fault."""
MOST_REORDERED = 16
"""Frames by which one may come out of turn, or a second if that is more.

Source: the largest buffer of H.264 and HEVC.
"""
_RECENT = 31


class Stamped(Protocol):
    """A frame, or a packet, with what the file says of its time, in ticks."""

    @property
    def pts(self) -> int | None: ...
    @property
    def dts(self) -> int | None: ...
    @property
    def duration(self) -> int | None: ...


class Stamp(NamedTuple):
    """Times alone."""

    pts: int | None
    dts: int | None
    duration: int | None


Item = TypeVar("Item", bound=Stamped)


class Clock:
    """Follows frames in their order and tells when each is on screen, counted from the first.

    Times never fall; two frames may share one. `repaired` counts those whose own time was not
    believed. All but the constants above are in ticks.

    Args:
        gap: from frame to frame at the stream's nominal rate.
        ticks_per_s: of the stream's clock.
        jumps: whether clocks of this container are known to jump.
    """

    def __init__(self, *, gap: int, ticks_per_s: float, jumps: bool) -> None:
        self.repaired = 0
        self._gap = gap
        self._longest_step = round(LONGEST_STEP_S * ticks_per_s)
        self._longest_hold = round(LONGEST_HOLD_S * ticks_per_s)
        self._held_left = round(MOST_HELD_S * ticks_per_s)
        self._jumps = jumps
        self._reach = max(MOST_REORDERED * gap, round(ticks_per_s))
        self._source = _BestEffort(self._reach)
        self._steps: deque[int] = deque(maxlen=_RECENT)
        self._has_begun = False
        self._last = 0
        self._duration = 0
        """Of the last frame, as it says; 0: it says nothing that can be."""
        self._is_set = False
        self._offset = self._earlier_offset = 0
        """From the file's clock to ours, and so before it jumped."""
        self._since_jump = 0
        self._out_of_turn = 0
        """Frames in a row that took no time."""

    @property
    def end(self) -> int:
        """When the last frame so far leaves the screen; 0: there was none."""
        if not self._has_begun:
            return 0
        is_told = self._duration and self._is_believed(self._last + self._duration)
        return self._last + (self._duration if is_told else self._median_step())

    def follow(self, items: Iterable[Item]) -> Iterator[tuple[Item, int]]:
        """Each frame and its time; one is taken ahead, as the next one tells on an outlier."""
        held: tuple[Item, int | None] | None = None
        for item in items:
            time = self._source.time(item)
            if held is not None:
                yield held[0], self._take(*held, time)
            held = item, time
        if held is not None:
            yield held[0], self._take(*held, None)

    def _take(self, item: Stamped, raw: int | None, next_raw: int | None) -> int:
        if raw is not None and self._is_set:
            at = self._place(raw, next_raw, is_sure=item.dts is not None)
        else:
            at = self._last + self._usual() if self._has_begun else 0
        if raw is not None and not self._is_set:
            self._is_set, self._offset = True, at - raw
            self._earlier_offset = self._offset
        if self._has_begun:
            self._note_step(at - self._last)
        self._has_begun, self._last = True, at
        duration = item.duration or 0
        self._duration = duration if 0 < duration <= self._longest_hold else 0
        return at

    def _place(self, raw: int, next_raw: int | None, *, is_sure: bool) -> int:
        """Time of a frame that is not the first; `is_sure`: its own is the better of two."""
        last, at = self._last, raw + self._offset
        following = None if next_raw is None else next_raw + self._offset
        if self._goes_on(at) and not (following is not None and last < following < at):
            self._out_of_turn = 0
            return at
        if at == last and not self._out_of_turn:  # the other field of a picture
            self._out_of_turn = 1
            return last
        self.repaired += 1
        if following is not None and self._goes_on(following):  # this one alone is out of line
            return min(last + self._usual(), following)
        is_restart = is_sure or (following is not None and at < following <= last)
        if (
            not is_restart
            and last - self._reach <= at < last
            and self._out_of_turn < MOST_REORDERED
        ):
            self._out_of_turn += 1
            return last
        return self._jump(raw)

    def _jump(self, raw: int) -> int:
        """The clock's new place, or the one before its last jump, is now."""
        earlier = self._earlier_offset
        is_back = self._since_jump <= MOST_REORDERED and self._goes_on(raw + earlier)
        self._earlier_offset = self._offset
        self._offset = earlier if is_back else self._last + self._usual() - raw
        self._since_jump = 0
        return raw + self._offset

    def _goes_on(self, at: int) -> bool:
        return at > self._last and self._is_believed(at)

    def _is_believed(self, at: int) -> bool:
        """Whether the last frame may be on screen until then."""
        step = at - self._last
        if step <= self._longest_step:
            return True
        longest = max(self._longest_step if self._jumps else self._longest_hold, self._duration)
        return step <= min(longest, self._held_left)

    def _note_step(self, step: int) -> None:
        if step > 0:
            self._steps.append(step)
        if step > self._longest_step:
            self._held_left -= step
        self._since_jump += 1

    def _usual(self) -> int:
        """How long the last frame stays, as far as it is known."""
        if 0 < self._duration <= self._longest_step:
            return self._duration
        return self._median_step()

    def _median_step(self) -> int:
        usual = round(statistics.median(self._steps or [self._gap]))
        return min(max(1, usual), self._longest_step)


class _BestEffort:
    """A frame's time, or where such times fall more often, that of the packet it came out with.

    Source: `guess_correct_pts` of libavcodec 62, which av 18 does not show. Departs from it in that
    a fall by more than `reach` ticks is no matter of order: it is left to the clock.
    """

    def __init__(self, reach: int) -> None:
        self._reach = reach
        self._falls = {"pts": 0, "dts": 0}
        self._latest: dict[str, int | None] = {"pts": None, "dts": None}

    def time(self, item: Stamped) -> int | None:
        self._note("pts", item.pts, item.dts)
        self._note("dts", item.dts, item.pts)
        if item.dts is None or (item.pts is not None and self._falls["pts"] <= self._falls["dts"]):
            return item.pts
        return item.dts

    def _note(self, name: Literal["pts", "dts"], time: int | None, other: int | None) -> None:
        latest = self._latest[name]
        if time is not None and latest is not None:
            self._falls[name] += latest - self._reach <= time <= latest
        self._latest[name] = time if time is not None else other
