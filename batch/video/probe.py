"""What a video is: identity, size, length. Knows packets; knows no samples."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from batch.errors import Reason, VideoError
from batch.video.clock import LONGEST_STEP_S, Stamp
from batch.video.display import Display, caveats
from batch.video.open import (
    Decoded,
    clock_of,
    decode_frames,
    is_named_as_video,
    left_out,
    open_video,
    shown_packets,
    time_base,
    undecodable,
)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is. Its pictures are `height_px` x `width_px` as coded, and as a player shows
    them, with square pixels and upright, `shown_height_px` x `shown_width_px`.

    `duration_s` is what the container declares, which may be wrong (None: nothing, or by a clock
    that is wrong);
    `span_s` is the time from its first to the end of its last packet, found without decoding;
    `caveat` says what of it is not seen as in a player.
    """

    path: Path
    sha256: str
    size_bytes: int
    codec: str
    width_px: int
    height_px: int
    shown_width_px: int
    shown_height_px: int
    duration_s: float | None
    span_s: float
    caveat: str | None

    @property
    def upright_px(self) -> tuple[int, int]:
        """Height and width of a frame as a player shows it."""
        return self.shown_height_px, self.shown_width_px

    @property
    def name(self) -> str:
        return self.path.name


def probe(path: Path, *, progress: Callable[[], object] = lambda: None) -> VideoInfo:
    """Digest a video and read its facts; its first frame is decoded to see that it can be.

    Args:
        progress: called whenever some of the file was read, or a packet is later than all before.

    Raises:
        VideoError: as `open_video`; or no frame can be decoded.
    """
    counts = Decoded()
    with open_video(path) as (container, stream):
        frame = next(decode_frames(container, stream, counts), None)
        if frame is None:
            raise undecodable(path, stream, counts)
        span = measure_span(path, progress)
        if span.packets < 2 and not is_named_as_video(path):
            raise _picture(path)
        shown_height_px, shown_width_px = Display.of(container, stream).upright_px(frame)
        return VideoInfo(
            path=path,
            sha256=_sha256(path, progress),
            size_bytes=path.stat().st_size,
            codec=stream.codec_context.codec.canonical_name,
            width_px=frame.width,
            height_px=frame.height,
            shown_width_px=shown_width_px,
            shown_height_px=shown_height_px,
            duration_s=_declared_duration_s(container, stream) if span.is_by_clock else None,
            span_s=float(span.length_s),
            caveat="; ".join([*_left_out(container), *caveats(frame)]) or None,
        )


def glance(path: Path) -> float | None:
    """The length that a video declares, s; its start is looked at, the rest is not read.

    Raises:
        VideoError: as `probe`.
    """
    counts = Decoded()
    with open_video(path) as (container, stream):
        packets = (packet for packet in shown_packets(container, stream) if packet.size)
        if len(list(islice(packets, 2))) < 2 and not is_named_as_video(path):
            raise _picture(path)
    with open_video(path) as (container, stream):
        if next(decode_frames(container, stream, counts), None) is None:
            raise undecodable(path, stream, counts)
        return _declared_duration_s(container, stream)


def _picture(path: Path) -> VideoError:
    return VideoError(f"{path}: a picture, expected video", Reason.NOT_VIDEO)


def _left_out(container: InputContainer) -> Iterator[str]:
    for name in left_out(container):
        yield f"no decoder for {name!r}, another stream is shown"


class Span(NamedTuple):
    """How long a video is, whether the file's clock says the same, and of how many packets."""

    length_s: Fraction
    is_by_clock: bool
    packets: int


def measure_span(path: Path, progress: Callable[[], object]) -> Span:
    """`VideoInfo.span_s`, exactly; `progress` is as of `probe`.

    Packets come in order of decoding, and are followed by the times of it. Where these go on and
    agree with the times of presentation, it is by the latter: where frames of different lengths
    are reordered, the two differ a little.
    """
    first: int | None = None
    end: int | None = None
    packets = 0
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
                packets += 1
                progress()
        except av.FFmpegError as error:
            if not clock.end:
                raise VideoError(f"{path}: nothing can be read ({error.strerror})") from error
        base = time_base(stream)
        by_shown = clock.end if first is None or end is None else end - first
        is_by_clock = not clock.repaired and abs(by_shown - clock.end) * base <= LONGEST_STEP_S
        return Span((by_shown if is_by_clock else clock.end) * base, is_by_clock, packets)


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
