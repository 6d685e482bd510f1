"""Opening a video: its streams, identity and facts. Knows PyAV; knows no samples."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from batch.errors import Reason, VideoError
from batch.video.clock import LONGEST_STEP_S, Clock, Stamp


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is. Width and height are as coded, before the rotation.

    `rotation_degrees` is the counter-clockwise turn that a player applies; `duration_s` is what
    the container declares, which may be wrong (None: nothing, or by a clock that is wrong);
    `span_s` is the time from its first to the end of its last packet, found without decoding.
    """

    path: Path
    sha256: str
    size_bytes: int
    codec: str
    width_px: int
    height_px: int
    rotation_degrees: int
    duration_s: float | None
    span_s: float

    @property
    def upright_px(self) -> tuple[int, int]:
        """Height and width of a frame as a player shows it."""
        coded = (self.height_px, self.width_px)
        return coded if self.rotation_degrees % 180 == 0 else coded[::-1]

    @property
    def name(self) -> str:
        return self.path.name


_JUMPING = ("mpegts", "mpeg", "flv")
_MOST_RATE = 1000
"""Frames a second; what says more is a clock without a rate."""


@dataclass
class BrokenFrames:
    """Counts what could not be decoded, or was decoded with errors."""

    count: int = 0


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file, to be decoded by one thread.

    Raises:
        VideoError: the file is missing, empty, no video, or has only sound.
    """
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise VideoError(f"{path}: {what}", Reason.UNREADABLE)
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty; copy or download it again", Reason.EMPTY)
    try:
        # An absolute path cannot be taken for a protocol; metadata is often not valid UTF-8.
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: not a video, or cut off before its index ({error.strerror}); "
            f"`ffprobe {path.name}` shows more",
            Reason.NOT_VIDEO if os.access(path, os.R_OK) else Reason.UNREADABLE,
        ) from error
    with container:
        _refuse_other_content(path, container.format.name)
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError(
                f"{path}: got streams {', '.join(kinds) or 'none'}, expected video",
                Reason.NO_PICTURE,
            )
        streams[0].thread_count = 1
        yield container, streams[0]


def _refuse_other_content(path: Path, format_name: str) -> None:
    """Refuse what av 18 plays although it is no video, or not one file."""
    if format_name == "tty":  # any *.txt or *.nfo, as a terminal
        raise VideoError(f"{path}: a text file, expected video", Reason.NOT_VIDEO)
    if format_name == "image2" or format_name.endswith("_pipe"):
        raise VideoError(f"{path}: a picture, expected video", Reason.NOT_VIDEO)
    if format_name in ("concat", "dash", "hls"):
        raise VideoError(f"{path}: a list of other files, expected video", Reason.NOT_VIDEO)


def decode_frames(
    container: InputContainer, stream: VideoStream, broken: BrokenFrames
) -> Iterator[VideoFrame]:
    """Decode all frames in order of presentation; what is broken is counted, not raised."""
    packets = shown_packets(container, stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            broken.count += 1
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            broken.count += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                broken.count += frame.is_corrupt
                yield frame


def shown_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator["Packet[VideoStream]"]:
    """All packets of a stream, as they are to be decoded.

    FFmpeg 8 marks what comes after a restart of the clock in a fragmented MP4 as not to be shown,
    as it does what an edit list leaves out; that alone is to be left out.
    """
    latest: int | None = None
    for packet in container.demux(stream):
        time = packet.dts if packet.dts is not None else packet.pts
        if packet.is_discard and time is not None and latest is not None and time <= latest:
            again = Packet(bytes(packet))
            again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
            again.stream, again.time_base = stream, packet.time_base
            again.is_keyframe = packet.is_keyframe
            packet = again
        elif not packet.is_discard and time is not None:
            latest = time if latest is None else max(latest, time)
        yield packet


def probe(path: Path, *, progress: Callable[[], object] = lambda: None) -> VideoInfo:
    """Digest a video and read its facts; its first frame is decoded to see that it can be.

    Args:
        progress: called whenever some of the file was read, or a packet is later than all before.

    Raises:
        VideoError: as `open_video`; or no frame can be decoded.
    """
    broken = BrokenFrames()
    with open_video(path) as (container, stream):
        frame = next(decode_frames(container, stream, broken), None)
        if frame is None:
            raise nothing_decodable(path, stream, broken)
        span = measure_span(path, progress)
        return VideoInfo(
            path=path,
            sha256=_sha256(path, progress),
            size_bytes=path.stat().st_size,
            codec=stream.codec_context.codec.canonical_name,
            width_px=frame.width,
            height_px=frame.height,
            rotation_degrees=quarter_turns(frame) * 90,
            duration_s=_declared_duration_s(container, stream) if span.is_by_clock else None,
            span_s=float(span.length_s),
        )


def quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns counter-clockwise (0..3) that bring a frame upright."""
    return round(frame.rotation / 90) % 4


def nothing_decodable(path: Path, stream: VideoStream, broken: BrokenFrames) -> VideoError:
    """The error for a video of which no frame can be decoded."""
    return VideoError(
        f"{path}: not one {stream.codec_context.codec.canonical_name} frame can be decoded "
        f"({broken.count} broken); the file is cut off or damaged, copy it again"
    )


class Span(NamedTuple):
    """How long a video is, and whether the file's clock says the same."""

    length_s: Fraction
    is_by_clock: bool


def measure_span(path: Path, progress: Callable[[], object]) -> Span:
    """`VideoInfo.span_s`, exactly; `progress` is as of `probe`.

    Packets come in order of decoding, and are followed by the times of it. Where these go on and
    agree with the times of presentation, it is by the latter: where frames of different lengths
    are reordered, the two differ a little.
    """
    first: int | None = None
    end: int | None = None
    with open_video(path) as (container, stream):
        clock = clock_of(container, stream)

        def stamps() -> Iterator[Stamp]:
            nonlocal first, end
            for packet in shown_packets(container, stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                start = packet.pts if packet.pts is not None else packet.dts
                if start is not None:
                    stop = start + (packet.duration or 0)
                    first = start if first is None else min(first, start)
                    end = stop if end is None else max(end, stop)
                yield Stamp(packet.dts, packet.dts, packet.duration)

        try:
            for _ in clock.follow(stamps()):
                progress()
        except av.FFmpegError as error:
            if not clock.end:
                raise VideoError(f"{path}: nothing can be read ({error.strerror})") from error
        base = time_base(stream)
        by_shown = clock.end if first is None or end is None else end - first
        is_by_clock = not clock.repaired and abs(by_shown - clock.end) * base <= LONGEST_STEP_S
        return Span((by_shown if is_by_clock else clock.end) * base, is_by_clock)


def clock_of(container: InputContainer, stream: VideoStream) -> Clock:
    """A clock that follows a stream's frames or packets."""
    return Clock(
        gap=default_gap(stream),
        ticks_per_s=float(1 / time_base(stream)),
        jumps=container.format.name in _JUMPING,
    )


def time_base(stream: VideoStream) -> Fraction:
    """Length of a tick of the stream's clock, s."""
    return stream.time_base or Fraction(1, av.time_base)


def default_gap(stream: VideoStream) -> int:
    """Ticks from frame to frame at the stream's nominal rate."""
    rate = stream.guessed_rate or 0
    return max(1, round(1 / (rate if 0 < rate <= _MOST_RATE else 25) / time_base(stream)))


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None:
        return None
    # What Matroska and NUT declare is their end by their own clock (av 18).
    is_end = container.format.name in ("matroska,webm", "nut")
    begin = max(0, container.start_time or 0) if is_end else 0
    return (container.duration - begin) / av.time_base


def _sha256(path: Path, progress: Callable[[], object]) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 18))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress()
    return digest.hexdigest()
