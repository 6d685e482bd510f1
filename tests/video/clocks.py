"""Videos whose clocks are wrong in a known way, muxed on the spot; each frame tells its number."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.clips import flat

FPS = 10
Warp = Callable[[av.Packet, int], None]
"""Changes the times of a packet, given its number in order of decoding; in ticks of 1 / FPS."""

_CODECS = {".webm": "libvpx", ".mpg": "mpeg2video"}
_OPTIONS = {
    "libx264": {"crf": "20", "preset": "ultrafast", "g": str(FPS)},
    "libvpx": {"deadline": "realtime", "cpu-used": "-8"},
    "mpeg4": {"qscale": "2"},
}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def fps_of(path: Path) -> int:
    """Frames a second: MPEG-2 knows a few rates only."""
    return 25 if path.suffix == ".mpg" else FPS


def shade_of(rgb: np.ndarray) -> int:
    """The number of a frame of `write`."""
    return round((float(rgb.mean()) - 8) / 4)


def write(
    path: Path,
    numbers: range,
    *,
    warp: Warp = lambda packet, index: None,
    codec: str | None = None,
    b_frames: int = 0,
    fragments: bool = False,
) -> Path:
    """Encode frames of these numbers, in this container, and change what its packets say."""
    codec, fps = codec or _CODECS.get(path.suffix, "libx264"), fps_of(path)
    with av.open(str(path), "w", options=_FRAGMENTS if fragments else {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.options = "yuv420p", _OPTIONS.get(codec, {})
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.max_b_frames = b_frames
        packets: list[av.Packet] = []
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(flat(64, 64, (8 + 4 * number,) * 3), format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, fps)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index, packet in enumerate(packets):
            warp(packet, index)
            container.mux(packet)
    return path


def joined(path: Path, parts: int, frames: int, *, b_frames: int = 0) -> Path:
    """So many files of so many frames, each with a clock from 0, one after the other in one."""
    data = b""
    for part in range(parts):
        numbers = range(part * frames, (part + 1) * frames)
        write(path, numbers, b_frames=b_frames, fragments=path.suffix == ".mp4")
        piece = path.read_bytes()
        is_flv = path.suffix == ".flv" and part > 0
        data += piece[13:] if is_flv else piece  # a second header ends an FLV file for FFmpeg
    path.write_bytes(data)
    return path


def later(seconds: float) -> Warp:
    """All times later by so much."""

    def warp(packet: av.Packet, index: int) -> None:
        _move(packet, seconds)

    return warp


def jump_at(first: int, seconds: float) -> Warp:
    """The clock is put forward at a frame, for good."""

    def warp(packet: av.Packet, index: int) -> None:
        if index >= first:
            _move(packet, seconds)

    return warp


def ahead(which: set[int], seconds: float) -> Warp:
    """These frames are stamped ahead of their time; the order of decoding is told right."""

    def warp(packet: av.Packet, index: int) -> None:
        if index in which and packet.pts is not None:
            packet.pts += round(seconds / packet.time_base)

    return warp


def _move(packet: av.Packet, seconds: float) -> None:
    ticks = round(seconds / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
