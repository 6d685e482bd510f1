"""Opening a video: its streams, identity and facts. Knows PyAV; knows no samples."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from batch.errors import Reason, VideoError


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is. Width and height are as coded, before the rotation.

    `rotation_degrees` is the counter-clockwise turn that a player applies; `duration_s` is what
    the container declares (None: it declares nothing), which may be wrong; `span_s` is the time
    from its first to the end of its last packet, found without decoding.
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
    packets = container.demux(stream)
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
        return VideoInfo(
            path=path,
            sha256=_sha256(path, progress),
            size_bytes=path.stat().st_size,
            codec=stream.codec_context.codec.canonical_name,
            width_px=frame.width,
            height_px=frame.height,
            rotation_degrees=quarter_turns(frame) * 90,
            duration_s=_declared_duration_s(container, stream),
            span_s=float(measure_span_s(path, progress)),
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


def measure_span_s(path: Path, progress: Callable[[], object]) -> Fraction:
    """`VideoInfo.span_s`, exactly; `progress` is as of `probe`."""
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
                stop = start + (packet.duration or 0)
                if stop > end:
                    end = stop
                    progress()
        except av.FFmpegError as error:
            if not starts and not untimed:
                raise VideoError(f"{path}: nothing can be read ({error.strerror})") from error
        ticks = end - min(starts) if starts else untimed * default_gap(stream)
        return ticks * time_base(stream)


def time_base(stream: VideoStream) -> Fraction:
    """Length of a tick of the stream's clock, s."""
    return stream.time_base or Fraction(1, av.time_base)


def default_gap(stream: VideoStream) -> int:
    """Ticks from frame to frame at the stream's nominal rate, for streams without times."""
    return max(1, round(1 / (stream.guessed_rate or 25) / time_base(stream)))


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return None


def _sha256(path: Path, progress: Callable[[], object]) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 18))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress()
    return digest.hexdigest()
