"""Opening a video: the stream that is shown, its packets and frames. Knows no samples."""

import os
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from batch.errors import Reason, VideoError
from batch.video.clock import Clock

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
_OF_TYPESCRIPT = (".ts", ".mts")
_OF_MOTION_JPEG = (".mjpeg", ".mjpg")
_NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails
_TILES = Disposition.dependent | Disposition.still_image
MOST_BROKEN = 0.9
"""Of all frames: of one without its key all are, but for a few that decode by chance."""
_LOOK_PACKETS = 100
"""Of a stream, in which a frame is to be found; a decoder may need several."""
_LOOK_BYTES = 1 << 20
_JUMPING = ("mpegts", "mpeg", "flv")
_MOST_RATE = 1000
"""Frames a second; what says more is a clock without a rate."""


@dataclass
class Decoded:
    """Counts the frames of a stream that were met so far."""

    frames: int = 0
    """Given by the decoder, and packets of which it made nothing."""
    broken: int = 0
    """Of these, packets that could not be decoded and frames decoded with errors."""
    encrypted: int = 0
    """Packets of which the container says so; what is decoded of them is noise."""

    @property
    def is_noise(self) -> bool:
        """Whether next to nothing of it can be what was filmed."""
        return max(self.broken, self.encrypted) > MOST_BROKEN * self.frames


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the stream of a file that a player shows, to be decoded by one thread.

    Of several it is one that has more than one frame; then the default one, the largest, the
    longest, the first.

    Raises:
        VideoError: the file is missing, empty, no video, has only sound, or a codec that FFmpeg
            does not know.
    """
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise VideoError(f"{path}: {what}", Reason.UNREADABLE)
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty; copy or download it again", Reason.EMPTY)
    if not is_named_as_video(path) and _is_text(path):
        raise VideoError(f"{path}: a text file, expected video", Reason.NOT_VIDEO)
    with _open(path) as container:
        streams = _decodable(path, container)
        if len(streams) == 1:
            yield container, _alone(streams[0])
            return
        index = _best(container, streams)
    with _open(path) as container:
        stream = container.streams[index]
        if not isinstance(stream, VideoStream):
            raise VideoError(f"{path}: changes while it is read", Reason.CHANGING)
        yield container, _alone(stream)


def is_named_as_video(path: Path) -> bool:
    """Whether the name of a file says that it is a video; a text is TypeScript, not MPEG."""
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES and not (suffix in _OF_TYPESCRIPT and _is_text(path))


def left_out(container: InputContainer) -> list[str]:
    """Codecs of the video streams for which there is no decoder."""
    unknown = [stream.index for stream in container.streams.video if stream.codec_context is None]
    texts = describe_streams(container) if unknown else {}
    found = [re.search(r": Video: (\w+)(?: \(([^/)]+) / )?", texts.get(i, "")) for i in unknown]
    return [match[2] or match[1] if match else "none" for match in found]


def describe_streams(container: InputContainer) -> dict[int, str]:
    """What FFmpeg writes about each stream, where av 18 has no attribute for it."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # else it writes nothing
    try:
        text = container.dumps_format()  # type: ignore[attr-defined]  # not in av's stubs
    finally:
        av.logging.set_level(level)
    _, *parts = re.split(r"^  Stream #0:", text, flags=re.MULTILINE)
    numbered = [re.match(r"\d+", part) for part in parts]
    return {int(n[0]): part for n, part in zip(numbered, parts, strict=True) if n is not None}


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        text = getincrementaldecoder("utf-8")().decode(start)  # the last letter may be cut
    except (OSError, UnicodeDecodeError):
        return False
    return text != "" and "\0" not in text


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
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
        yield container


def _refuse_other_content(path: Path, format_name: str) -> None:
    """Refuse what av 18 plays although it is no video, or not one file."""
    if format_name == "tty":  # *.txt or *.nfo, as a terminal
        raise VideoError(f"{path}: a text file, expected video", Reason.NOT_VIDEO)
    if format_name in ("image2", "ico") or format_name.endswith("_pipe"):
        raise VideoError(f"{path}: a picture, expected video", Reason.NOT_VIDEO)
    if format_name in ("concat", "dash", "hls"):
        raise VideoError(f"{path}: a list of other files, expected video", Reason.NOT_VIDEO)
    # Anything that holds a JPEG somewhere: documents, archives, databases.
    is_named = is_named_as_video(path) or path.suffix.lower() in _OF_MOTION_JPEG
    if format_name == "mjpeg" and not is_named:
        raise VideoError(f"{path}: something that holds pictures, expected video", Reason.NOT_VIDEO)


def _decodable(path: Path, container: InputContainer) -> Sequence[VideoStream]:
    """Streams of moving pictures that have a decoder: one at least."""
    shown = [stream for stream in container.streams.video if not stream.disposition & _NOT_SHOWN]
    if not shown:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(
            f"{path}: got streams {', '.join(kinds) or 'none'}, expected video",
            Reason.NO_PICTURE,
        )
    streams = [stream for stream in shown if stream.codec_context is not None]
    if not streams:
        names = left_out(container)
        raise VideoError(
            f"{path}: no decoder for {', '.join(map(repr, names))}; "
            "convert it with the program that wrote it",
            Reason.NOT_VIDEO if set(names) == {"none"} else Reason.NO_DECODER,
        )
    return streams


def _best(container: InputContainer, streams: Sequence[VideoStream]) -> int:
    """Index of the stream that is shown, as `open_video` says; reads the container."""
    packets = dict.fromkeys((stream.index for stream in streams), 0)
    decoding = set(packets)
    try:
        for packet in container.demux(list(streams)):
            at = packet.stream_index
            packets[at] += packet.size > 0
            if at in decoding and (packets[at] > _LOOK_PACKETS or _decodes(packet)):
                decoding.discard(at)
            if not decoding and min(packets.values()) > 1:
                break
    except av.FFmpegError:  # what was read decides
        pass

    def worth(stream: VideoStream) -> tuple[bool | int | float, ...]:
        context = stream.codec_context
        return (
            stream.index not in decoding and packets[stream.index] > 0,
            packets[stream.index] > 1,
            not stream.disposition & _TILES,
            bool(stream.disposition & Disposition.default),
            context.width * context.height,
            float((stream.duration or 0) * time_base(stream)),
            -stream.index,
        )

    return max(streams, key=worth).index


def _decodes(packet: "Packet[Any]") -> bool:
    try:
        return bool(packet.decode())
    except av.FFmpegError:
        return False


def _alone(stream: VideoStream) -> VideoStream:
    """The stream, to be read without the others: what is wrong with these must not end it."""
    for other in stream.container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.thread_count = 1
    return stream


def decode_frames(
    container: InputContainer, stream: VideoStream, counts: Decoded
) -> Iterator[VideoFrame]:
    """Decode all frames in order of presentation; what is broken is counted, not raised."""
    packets = shown_packets(container, stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            counts.frames += 1
            counts.broken += 1
            return
        counts.encrypted += packet.has_sidedata("encryption_info")
        try:
            frames = packet.decode()
        except av.FFmpegError:
            counts.frames += 1
            counts.broken += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                counts.frames += 1
                counts.broken += frame.is_corrupt
                yield frame


def shown_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator["Packet[VideoStream]"]:
    """All packets of a stream, as they are to be decoded.

    FFmpeg 8 marks what comes after a restart of the clock in a fragmented MP4 as not to be shown,
    as it does what an edit list leaves out; that alone is to be left out.
    """
    latest: int | None = None
    for packet in _packets(container, stream):
        time = packet.dts if packet.dts is not None else packet.pts
        if packet.is_discard and time is not None and latest is not None and time <= latest:
            again: Packet[Any] = Packet(bytes(packet))
            again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
            again.stream, again.time_base = stream, packet.time_base
            again.is_keyframe = packet.is_keyframe
            packet = again
        elif not packet.is_discard and time is not None:
            latest = time if latest is None else max(latest, time)
        yield packet


def _packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """The packets of a stream, and an empty one that ends them.

    Where more streams turn up in a file while it is read, av 18 may give packets of theirs too,
    and at the end an IndexError.
    """
    has_ended = False
    try:
        for packet in container.demux(stream):
            if packet.stream_index == stream.index or packet.size == 0:
                has_ended = packet.size == 0
                yield packet
    except IndexError:
        if not has_ended:
            last: Packet[Any] = Packet()
            last.stream = stream
            yield last


def undecodable(path: Path, stream: VideoStream, counts: Decoded) -> VideoError:
    """The error for a video of which no frame, or next to none, can be decoded.

    Of what is not called a video, and is found to be one by a few bytes, one frame must be.
    """
    codec = stream.codec_context.codec.canonical_name
    what = f"not one {codec} frame can be decoded"
    if counts.broken < counts.frames:
        what = f"{counts.broken} of {counts.frames} {codec} frames are broken"
    if counts.encrypted or _is_scrambled(path, stream):
        what = f"{path}: encrypted: {what}; only a copy without protection can be read"
        return VideoError(what, Reason.ENCRYPTED)
    is_video = counts.broken < counts.frames or is_named_as_video(path)
    return VideoError(
        f"{path}: {what}; the file is cut off or damaged, copy it again",
        Reason.UNDECODABLE if is_video else Reason.NOT_VIDEO,
    )


def _is_scrambled(path: Path, stream: VideoStream) -> bool:
    """Whether packets of a transport stream say that their content is scrambled."""
    if stream.container.format.name != "mpegts":
        return False
    with path.open("rb") as file:
        data = file.read(_LOOK_BYTES)
    size = next((n for n in (188, 192, 204) if data[n : 3 * n : n].count(0x47) == 2), 188)
    first = data.find(0x47)
    heads = [data[at : at + 4] for at in range(first, len(data) - 4, size)]
    flags = [head[3] >> 6 for head in heads if (head[1] << 8 | head[2]) & 0x1FFF == stream.id]
    return any(flags)


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
