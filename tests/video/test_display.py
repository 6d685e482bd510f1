"""Frames as a player shows them: turned, mirrored, cropped, with square pixels, over black."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from batch.video import Geometry, probe, read_samples
from tests import clips
from tests.clips import Rgb

WHITE, GREY = 255, 140


def write(
    path: Path,
    picture: Rgb,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Three frames of a picture, RGB or RGBA."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, options or {}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for index in range(3):
            given = "rgb24" if picture.shape[2] == 3 else "rgba"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=given)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def seen(path: Path, height_px: int, width_px: int) -> Rgb:
    geometry = Geometry(height_px=height_px, width_px=width_px, rows=1, columns=1)
    (sample,) = read_samples(path, geometry=geometry)
    return sample.rgb


def corners(picture: Rgb) -> dict[str, int]:
    """Level of grey in the middle of each quarter, by name."""
    height, width = picture.shape[:2]
    return {
        f"{vertical} {across}": round(float(picture[row * height // 4, column * width // 4].mean()))
        for vertical, row in (("top", 1), ("bottom", 3))
        for across, column in (("left", 1), ("right", 3))
    }


# (a, b, c, d) of QuickTime's matrix, and where the white and the grey quarter come to, which are
# the top left and the top right one as coded. (0, 1, -1, 0) is a phone held upright.
@pytest.mark.parametrize(
    ("matrix", "white", "grey"),
    [
        ((1, 0, 0, 1), "top left", "top right"),
        ((0, 1, -1, 0), "top right", "bottom right"),
        ((-1, 0, 0, -1), "bottom right", "bottom left"),
        ((0, -1, 1, 0), "bottom left", "top left"),
        ((-1, 0, 0, 1), "top right", "top left"),
        ((1, 0, 0, -1), "bottom left", "bottom right"),
        ((0, 1, 1, 0), "top left", "bottom left"),
        ((0, -1, -1, 0), "bottom right", "top right"),
    ],
)
def test_the_whole_display_matrix_is_applied(
    tmp_path: Path, matrix: tuple[int, ...], white: str, grey: str
) -> None:
    picture = clips.flat(64, 96, (0, 0, 0))
    picture[:32, :48], picture[:32, 48:] = WHITE, GREY
    path = write(tmp_path / "a.mp4", picture)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    data[at : at + 24] = struct.pack(">6i", *(n * 65536 for n in (a, b, 0, c, d, 0)))
    path.write_bytes(data)
    size = (64, 96) if a else (96, 64)
    assert probe(path).upright_px == size
    found = corners(seen(path, *size))
    assert found.pop(white) == pytest.approx(WHITE, abs=8)
    assert found.pop(grey) == pytest.approx(GREY, abs=8)
    assert max(found.values()) < 10


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(64, 45), (144, 256)), (Fraction(8, 9), (162, 180)), (Fraction(300, 1), (144, 180))],
)
def test_a_circle_stays_a_circle(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    is_believed = aspect < 10
    squeeze = float(aspect) if is_believed else 1.0
    rows, columns = np.mgrid[:144, :180]
    inside = ((columns - 90) * squeeze) ** 2 + (rows - 72) ** 2 < 50**2
    picture = np.where(inside[..., None], WHITE, 0).repeat(3, axis=2).astype(np.uint8)
    path = write(tmp_path / "a.mp4", picture, aspect=aspect, options={"crf": "5"})
    info = probe(path)
    assert (info.upright_px, info.height_px, info.width_px) == (size, 144, 180)
    disc = seen(path, *size)[..., 0] > 128
    assert np.ptp(np.flatnonzero(disc.any(axis=0))) == pytest.approx(
        np.ptp(np.flatnonzero(disc.any(axis=1))), abs=3
    )


def test_what_the_container_crops_is_not_shown(tmp_path: Path) -> None:
    picture = clips.flat(96, 128, (0, 0, 0))
    picture[14:74, 16:116] = GREY
    path = write(tmp_path / "a.mp4", picture, options={"crf": "1"})
    # 100 x 60 px, 2 to the right and 4 above the middle.
    box = struct.pack(">I4s8i", 40, b"clap", 100, 1, 60, 1, 2, 1, -4, 1)
    path.write_bytes(with_box(path.read_bytes(), box))
    assert probe(path).upright_px == (60, 100)
    shown = seen(path, 60, 100)
    assert shown.min() > GREY - 10


def with_box(data: bytes, box: bytes) -> bytes:
    """An MP4 of one H.264 track, its index at the end, with a box more in the sample entry."""
    out, at, sizes = bytearray(data), 0, []
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while out[at + 4 : at + 8] != name:
            at += int.from_bytes(out[at : at + 4], "big")
        sizes.append(at)
        at += 8 + {b"stsd": 8, b"avc1": 78}.get(name, 0)
    end = sizes[-1] + int.from_bytes(out[sizes[-1] : sizes[-1] + 4], "big")
    for start in sizes:
        size = int.from_bytes(out[start : start + 4], "big") + len(box)
        out[start : start + 4] = size.to_bytes(4, "big")
    out[end:end] = box
    return bytes(out)


@pytest.mark.parametrize("codec", ["png", "qtrle"])
def test_what_is_transparent_is_black(tmp_path: Path, codec: str) -> None:
    picture = np.full((32, 48, 4), WHITE, np.uint8)
    picture[:, 24:, 3] = 0
    picture[16:, :24, 3] = 140
    pix_fmt = "rgba" if codec == "png" else "argb"
    shown = seen(write(tmp_path / "a.mov", picture, codec=codec, pix_fmt=pix_fmt), 32, 48)
    found = corners(shown)
    assert found == {"top left": 255, "bottom left": 140, "top right": 0, "bottom right": 0}


@pytest.mark.parametrize(
    ("parameters", "caveat"),
    [
        ("transfer=smpte2084", "its PQ colours are not tone-mapped"),
        ("transfer=arib-std-b67", "its HLG colours are not tone-mapped"),
        ("tff=1", "interlaced, its pictures hold both fields"),
        ("transfer=bt709", None),
    ],
)
def test_what_is_not_done_to_a_picture_is_said(
    tmp_path: Path, parameters: str, caveat: str | None
) -> None:
    path = write(tmp_path / "a.mkv", clips.texture(64, 96), options={"x264-params": parameters})
    assert probe(path).caveat == caveat
