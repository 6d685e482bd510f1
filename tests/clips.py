"""Small test videos with known content, drawn and encoded on the spot."""

import fractions
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]


def texture(height_px: int, width_px: int, *, seed: int = 0, contrast: float = 45.0) -> Rgb:
    """A smooth random picture with structure at 4-20 px, in which motion can be seen."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((height_px, width_px, 3)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 1.5)
    coarse = cv2.GaussianBlur(noise, (0, 0), 5.0)
    mixed = fine / fine.std() + coarse / coarse.std()
    return np.clip(128 + contrast * mixed / mixed.std(), 0, 255).astype(np.uint8)


def flat(height_px: int, width_px: int, colour: tuple[int, int, int] = (120, 110, 100)) -> Rgb:
    """A picture of one colour."""
    return np.full((height_px, width_px, 3), colour, np.uint8)


def noisy(picture: Rgb, sigma: float, *, seed: int = 0) -> Rgb:
    """The picture with camera noise of `sigma` grey levels."""
    noise = np.random.default_rng(seed).standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture + sigma * noise), 0, 255).astype(np.uint8)


def with_square(
    picture: Rgb, *, top: int, left: int, side: int = 5, colour: Sequence[int] = (215, 40, 40)
) -> Rgb:
    """A copy of the picture with a small square drawn on it."""
    changed = picture.copy()
    changed[top : top + side, left : left + side] = colour
    return changed


def moving(
    count: int, *, height_px: int, width_px: int, step_px: float, seed: int = 0
) -> list[Rgb]:
    """`count` views of one texture, each `step_px` further to the right than the last."""
    margin = int(np.ceil(count * step_px)) + 8
    wide = texture(height_px, width_px + margin, seed=seed)
    views = []
    for i in range(count):
        shift = np.float32([[1, 0, -i * step_px], [0, 1, 0]])
        views.append(
            cv2.warpAffine(wide, shift, (width_px, height_px), flags=cv2.INTER_CUBIC).astype(
                np.uint8
            )
        )
    return views


def write_clip(
    path: Path,
    frames: Iterable[Rgb],
    *,
    fps: int = 10,
    pts_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation_degrees: float = 0.0,
    hold_ms: int | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames; with `pts_ms` each is on screen from that millisecond on (VFR).

    With `hold_ms`, all frames declare that they stay for so long.
    """
    chosen = {"crf": "10", "preset": "ultrafast"} if options is None else options
    base = fractions.Fraction(1, 1000) if pts_ms is not None else fractions.Fraction(1, fps)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=1000 if pts_ms is not None else fps)
        stream.codec_context.time_base = base
        stream.pix_fmt = pix_fmt
        stream.options = chosen
        packets: list[av.Packet] = []
        for index, rgb in enumerate(frames):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
                if rotation_degrees:
                    stream.set_display_rotation(rotation_degrees)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts = index if pts_ms is None else pts_ms[index]
            frame.time_base = base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            if hold_ms is not None:
                packet.duration = round(hold_ms / 1000 / packet.time_base)
            container.mux(packet)
    return path


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = np.zeros((1, int(16000 * seconds)), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, *, start: float, size_bytes: int, seed: int = 0) -> Path:
    """Overwrite bytes in the middle of a file with noise; `start` is a share of its length."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * start)
    data[at : at + size_bytes] = np.random.default_rng(seed).bytes(size_bytes)
    path.write_bytes(bytes(data))
    return path


def truncate(path: Path, *, keep: float) -> Path:
    """Cut a file to a share of its length."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
