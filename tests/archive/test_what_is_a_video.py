"""Which files of an archive are videos, failures, or passed over."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch.archive.discovery import probe_file
from batch.archive.inventory import FileRow, Stat
from batch.errors import Reason
from tests import clips

PICTURES = [Image.fromarray(clips.texture(48, 64, seed=seed)) for seed in range(3)]


def picture(path: Path) -> None:
    PICTURES[0].save(path)


def movie(path: Path) -> None:
    PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:])


def jpegs() -> list[bytes]:
    files = [io.BytesIO() for _ in PICTURES]
    for image, file in zip(PICTURES, files, strict=True):
        image.save(file, "JPEG")
    return [file.getvalue() for file in files]


def in_a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number, data in enumerate(jpegs()):
            file.writestr(f"{number}.jpg", data)


def in_a_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for number, data in enumerate(jpegs()):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


def in_a_table(path: Path) -> None:
    pq.write_table(pa.table({"picture": jpegs()}), path)


def one_frame(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.asarray(PICTURES[0]), format="rgb24")
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def kind_of(path: Path) -> tuple[str, Reason | None]:
    row = probe_file(FileRow(path=str(path), stat=Stat.of(os.lstat(path))), lambda: None)
    return row.kind, row.reason


PASSED_OVER: dict[str, Callable[[Path], object]] = {
    "a.avif": picture,
    "a.bmp": picture,
    "a.gif": picture,
    "a.heic": one_frame,
    "a.ico": picture,
    "a.jpg": picture,
    "a.mpo": movie,
    "a.pdf": movie,
    "a.png": picture,
    "a.apng": picture,
    "a.tiff": picture,
    "a.webp": picture,
    "picture without a suffix": one_frame,
    "a.cbz": in_a_zip,
    "a.epub": in_a_zip,
    "a.tar": in_a_tar,
    "a.parquet": in_a_table,
    "a.pickle": lambda path: path.write_bytes(pickle.dumps(jpegs())),
    "thumbs.db": lambda path: path.write_bytes(bytes(512) + b"\0\0".join(jpegs())),
    "two.jpg": lambda path: path.write_bytes(b"".join(jpegs())),
    "a.ts": lambda path: path.write_text("export const où: number = 1;\n" * 300),
    "b.MTS": lambda path: path.write_text("export {};\n"),
    "empty": lambda path: path.touch(),
    "a link": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_no_video_is_passed_over(tmp_path: Path, name: str) -> None:
    PASSED_OVER[name](tmp_path / name)
    assert kind_of(tmp_path / name) == ("other", None)


VIDEOS: dict[str, Callable[[Path], object]] = {
    "a.gif": movie,
    "a.png": movie,
    "still.mp4": one_frame,
    "still.MOV": one_frame,
    "a.mjpeg": lambda path: path.write_bytes(b"".join(jpegs())),
    "no suffix": lambda path: clips.write_clip(
        path.with_suffix(".mkv"), [np.asarray(PICTURES[0])] * 9
    ).rename(path),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_what_moves_or_is_called_a_video_is_one(tmp_path: Path, name: str) -> None:
    VIDEOS[name](tmp_path / name)
    assert kind_of(tmp_path / name) == ("video", None)


FAILED: dict[str, tuple[Callable[[Path], object], Reason]] = {
    "a.ts": (lambda path: path.write_bytes(bytes(9000)), Reason.NOT_VIDEO),
    "b.ts": (lambda path: path.touch(), Reason.EMPTY),
    "a.mp4": (lambda path: path.write_text("export {};\n"), Reason.NOT_VIDEO),
    "link.mp4": (lambda path: path.symlink_to("nowhere"), Reason.UNREADABLE),
    "pipe.mkv": (os.mkfifo, Reason.UNREADABLE),
}


@pytest.mark.parametrize("name", FAILED)
def test_what_is_called_a_video_and_is_none_is_a_failure(tmp_path: Path, name: str) -> None:
    make, reason = FAILED[name]
    make(tmp_path / name)
    assert kind_of(tmp_path / name) == ("failed", reason)
