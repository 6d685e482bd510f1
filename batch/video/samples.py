"""Samples of a video at a steady rate, in a model's geometry. Knows no signals."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from batch.errors import VideoError
from batch.video.geometry import Geometry
from batch.video.open import (
    BrokenFrames,
    decode_frames,
    nothing_decodable,
    open_video,
    quarter_turns,
)
from batch.video.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """How often to sample; `max_samples` lowers the rate evenly for long videos."""

    rate_hz: float = 1.0
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if not 1e-5 <= self.rate_hz <= 1000:
            raise ValueError(f"rate_hz: got {self.rate_hz}, expected 0.00001 to 1000")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples: got {self.max_samples}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a video.

    `frame` counts decoded frames from 0; `pts_s` is that frame's own time in the file, so a frame
    that stays on screen long gives several samples with one `pts_s`. `rgb` is read-only uint8
    [height_px, width_px, 3] in the model's geometry.
    """

    index: int
    frame: int
    pts_s: float
    rgb: NDArray[np.uint8]


class SampleReader(Iterator[Sample]):
    """Iterates over the samples of one video; its other properties tell what it met so far."""

    def __init__(self, path: Path, geometry: Geometry, sampling: Sampling) -> None:
        self._path = path
        self._geometry = geometry
        self._sampling = sampling
        self._broken = BrokenFrames()
        self._decoded_s = Fraction(0)
        self._samples = self._read()

    def __next__(self) -> Sample:
        return next(self._samples)

    @property
    def broken_frames(self) -> int:
        """Packets that could not be decoded, frames decoded with errors or out of order."""
        return self._broken.count

    @property
    def decoded_s(self) -> float:
        """Length of what could be read; far below the declared one where a file is damaged."""
        return float(self._decoded_s)

    def _read(self) -> Iterator[Sample]:
        interval_s = 1 / Fraction(self._sampling.rate_hz).limit_denominator(1_000_000)
        most = self._sampling.max_samples
        if most is not None:
            interval_s = max(interval_s, _span_s(self._path) / most)
        index = 0
        with open_video(self._path) as (container, stream):
            for shown in _shown_frames(container, stream, self._broken):
                self._decoded_s = shown.until_s
                rgb: NDArray[np.uint8] | None = None
                while shown.until_s > index * interval_s and index != most:
                    if rgb is None:
                        rgb = self._picture(shown.frame)
                    pts_s = float(shown.pts_s)
                    yield Sample(index=index, frame=shown.index, pts_s=pts_s, rgb=rgb)
                    index += 1
            if index == 0:
                raise nothing_decodable(self._path, stream, self._broken)

    def _picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame upright and in the model's geometry."""
        rgb = frame.to_ndarray(format="rgb24", threads=1)
        upright = np.ascontiguousarray(np.rot90(rgb, quarter_turns(frame)), dtype=np.uint8)
        picture = self._geometry.apply(upright)
        picture.flags.writeable = False
        return picture


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A frame, its own time, and until when it is on screen, counted from the first frame."""

    frame: VideoFrame
    index: int
    pts_s: Fraction
    until_s: Fraction


def read_samples(
    path: Path, *, geometry: Geometry, rate_hz: float = 1.0, max_samples: int | None = None
) -> SampleReader:
    """Decode a video in order and yield its samples.

    Sample k is the frame on screen k / rate_hz seconds after the first frame: the last one whose
    time is not later. The last frame stays on screen for its own duration, or for the median
    gap between frames where it has none. With `max_samples`, the rate is lowered evenly over the
    true duration, so that no more come. The file is opened when the first sample is asked for.

    Raises:
        VideoError: from the iteration; the file cannot be opened, or no frame decoded.
        ValueError: the rate or the number is out of range.

    Source: seeking gives wrong frames in files with B-frames, variable rates or wrong counts, and
    is not faster for common key frame distances; so everything is decoded in order.
    """
    return SampleReader(path, geometry, Sampling(rate_hz=rate_hz, max_samples=max_samples))


def _shown_frames(
    container: InputContainer, stream: VideoStream, broken: BrokenFrames
) -> Iterator[_Shown]:
    """Pair each frame with the end of its time on screen; times that go back are broken."""
    base = _time_base(stream)
    default_gap = _default_gap(stream)
    gaps: list[int] = []
    first: int | None = None
    held: tuple[VideoFrame, int, int] | None = None
    for index, frame in enumerate(decode_frames(container, stream, broken)):
        if held is None:
            pts = first = frame.pts or 0
        else:
            pts = frame.pts if frame.pts is not None else held[2] + default_gap
            if pts <= held[2]:
                broken.count += 1
                continue
            gaps.append(pts - held[2])
            until_s = (pts - (first or 0)) * base
            yield _Shown(frame=held[0], index=held[1], pts_s=held[2] * base, until_s=until_s)
        held = (frame, index, pts)
    if held is not None:
        stay = held[0].duration or round(statistics.median(gaps or [default_gap]))
        until_s = (held[2] + stay - (first or 0)) * base
        yield _Shown(frame=held[0], index=held[1], pts_s=held[2] * base, until_s=until_s)


def _span_s(path: Path) -> Fraction:
    """Time from the first to the end of the last packet, found without decoding.

    Raises:
        VideoError: the file cannot be opened.
    """
    starts: list[int] = []
    end = untimed = 0
    with open_video(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                start = packet.pts if packet.pts is not None else packet.dts
                if start is None:
                    untimed += packet.size > 0
                    continue
                if packet.is_discard:
                    continue
                starts.append(start)
                end = max(end, start + (packet.duration or 0))
        except av.FFmpegError as error:
            if not starts and not untimed:
                raise VideoError(f"{path}: nothing can be read ({error.strerror})") from error
        ticks = end - min(starts) if starts else untimed * _default_gap(stream)
        return ticks * _time_base(stream)


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)


def _default_gap(stream: VideoStream) -> int:
    """Ticks from frame to frame at the stream's nominal rate, for streams without times."""
    return max(1, round(1 / (stream.guessed_rate or 25) / _time_base(stream)))
