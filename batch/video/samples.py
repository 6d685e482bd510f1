"""Samples of a video at a steady rate, in a model's geometry. Knows no signals."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from batch.video.display import Display
from batch.video.geometry import Geometry
from batch.video.open import (
    Decoded,
    clock_of,
    decode_frames,
    open_video,
    time_base,
    undecodable,
)
from batch.video.probe import measure_span
from batch.video.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """How often to take a frame; `max_samples` lowers the rate evenly for long videos."""

    rate_hz: float = 1.0
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if not 1e-5 <= self.rate_hz <= 1000:
            raise ValueError(f"rate_hz: got {self.rate_hz}, expected 0.00001 to 1000")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples: got {self.max_samples}, expected 1 or more")

    def interval_s(self, span_s: Fraction, together: int) -> Fraction:
        """Time from one frame taken to the next in a video of this length, `together` a sample."""
        asked_s = 1 / Fraction(self.rate_hz).limit_denominator(1_000_000)
        if self.max_samples is None:
            return asked_s
        return max(asked_s, span_s / (self.max_samples * together))

    def frames(self, span_s: float, together: int) -> int:
        """Frames taken from a video of this length; arguments as of `interval_s`."""
        span = Fraction(span_s).limit_denominator(1_000_000)
        return max(1, math.ceil(span / self.interval_s(span, together)))


@dataclass(frozen=True, kw_only=True)
class Footage:
    """When the samples of a video were taken.

    - pts_s, last_pts_s: float64 [samples], times of each sample's first and last frame.
    - start_s: time of the video's first frame, also where its samples are left out.
    - index: int64 [samples], number of each among all samples of the video.
    - interval_s: time from one sampled frame to the next, before any sample was left out.
    - duration_s: length of the video.
    """

    geometry: Geometry
    start_s: float
    index: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    last_pts_s: NDArray[np.float64]
    interval_s: float
    duration_s: float

    @classmethod
    def steady(cls, geometry: Geometry, samples: int, interval_s: float = 1.0) -> Self:
        """So many samples of a video whose frames come exactly at the sampling rate."""
        first = np.arange(samples, dtype=np.float64) * (geometry.frames * interval_s)
        return cls(
            geometry=geometry,
            start_s=0.0,
            index=np.arange(samples),
            pts_s=first,
            last_pts_s=first + (geometry.frames - 1) * interval_s,
            interval_s=interval_s,
            duration_s=samples * geometry.frames * interval_s,
        )

    def __len__(self) -> int:
        return len(self.pts_s)

    def select(self, samples: NDArray[np.bool_]) -> Self:
        return replace(
            self,
            index=self.index[samples],
            pts_s=self.pts_s[samples],
            last_pts_s=self.last_pts_s[samples],
        )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a video.

    `frame` counts decoded frames from 0; `pts_s` is when that frame comes on screen, counted from
    the video's first, so one that stays long gives several samples with one `pts_s`. `last_pts_s`
    is the time of the sample's last frame. `rgb` is its picture in the model's geometry, read-only
    uint8 [frames * height_px, width_px, 3].
    """

    index: int
    frame: int
    pts_s: float
    last_pts_s: float
    rgb: NDArray[np.uint8]


class SampleReader(Iterator[Sample]):
    """Iterates over the samples of one video; its other attributes tell what it met so far."""

    def __init__(
        self,
        path: Path,
        geometry: Geometry,
        sampling: Sampling,
        progress: Callable[[], object],
    ) -> None:
        self._path = path
        self._geometry = geometry
        self._sampling = sampling
        self._progress = progress
        self._counts = Decoded()
        self.decoded_s = 0.0
        """Length of what could be read; far below the declared one where a file is damaged."""
        self.interval_s = float(sampling.interval_s(Fraction(0), geometry.frames))
        """Time from one sampled frame to the next."""
        self.clock_repairs = 0
        """Frames whose time in the file was not believed."""
        self._samples = self._read()

    def __next__(self) -> Sample:
        return next(self._samples)

    @property
    def broken_frames(self) -> int:
        """Packets that could not be decoded, and frames decoded with errors."""
        return self._counts.broken

    def _read(self) -> Iterator[Sample]:
        """Group the frames into samples; the last sample repeats its last frame where it must."""
        together, taken = self._geometry.frames, self._take()
        for index, group in enumerate(iter(lambda: list(islice(taken, together)), [])):
            yield _sample(index, group + group[-1:] * (together - len(group)))

    def _take(self) -> Iterator["_Taken"]:
        most, together = self._sampling.max_samples, self._geometry.frames
        span_s = Fraction(0)
        if most is not None:
            most *= together
            span_s = measure_span(self._path, self._progress).length_s
        interval_s = self._sampling.interval_s(span_s, together)
        self.interval_s = float(interval_s)
        count = 0
        with open_video(self._path) as (container, stream):
            display = Display.of(container, stream)
            for shown in self._shown(container, stream):
                self.decoded_s = float(shown.until_s)
                self._progress()
                rgb: NDArray[np.uint8] | None = None
                while shown.until_s > count * interval_s and count != most:
                    if rgb is None:
                        rgb = self._geometry.apply(display.picture(shown.frame))
                    yield _Taken(shown.number, float(shown.pts_s), rgb)
                    count += 1
            if count == 0 or self._counts.is_noise:
                raise undecodable(self._path, stream, self._counts)

    def _shown(self, container: InputContainer, stream: VideoStream) -> Iterator["_Shown"]:
        """Pair each frame with the end of its time on screen."""
        clock, base = clock_of(container, stream), time_base(stream)
        held: tuple[VideoFrame, int, int] | None = None
        frames = decode_frames(container, stream, self._counts)
        for number, (frame, at) in enumerate(clock.follow(frames)):
            self.clock_repairs = clock.repaired
            if held is not None:
                yield _Shown(held[0], held[1], held[2] * base, at * base)
            held = frame, number, at
        if held is not None:
            yield _Shown(held[0], held[1], held[2] * base, clock.end * base)


class _Taken(NamedTuple):
    """A frame taken at the sampling rate, in the model's geometry."""

    frame: int
    pts_s: float
    rgb: NDArray[np.uint8]


class _Shown(NamedTuple):
    """A frame, and from when until when it is on screen, counted from the first frame."""

    frame: VideoFrame
    number: int
    pts_s: Fraction
    until_s: Fraction


def _sample(index: int, group: list[_Taken]) -> Sample:
    picture = np.concatenate([taken.rgb for taken in group])
    picture.flags.writeable = False
    first, last = group[0], group[-1]
    return Sample(
        index=index, frame=first.frame, pts_s=first.pts_s, last_pts_s=last.pts_s, rgb=picture
    )


def read_samples(
    path: Path,
    *,
    geometry: Geometry,
    rate_hz: float = 1.0,
    max_samples: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> SampleReader:
    """Decode a video in order and yield its samples.

    Frame k of the samples is the one on screen k / rate_hz seconds after the first: the last one
    whose time is not later; a sample holds as many in turn as the geometry says. The video's last
    frame stays on screen for its own duration, or for the median gap between frames where it has
    none. With `max_samples`, the rate is lowered evenly over the true duration, so that no more
    come. The file is opened when the first sample is asked for.

    Args:
        progress: called whenever decoding gets on in the video's time, taken or not.

    Raises:
        VideoError: from the iteration; the file cannot be opened, or no frame decoded.
        ValueError: the rate or the number is out of range.

    Source: seeking gives wrong frames in files with B-frames, variable rates or wrong counts, and
    is not faster for common key frame distances; so everything is decoded in order.
    """
    sampling = Sampling(rate_hz=rate_hz, max_samples=max_samples)
    return SampleReader(path, geometry, sampling, progress)
