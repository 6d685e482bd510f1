"""A small archive: videos in nested folders, copies of them, and files that are hostile."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from batch.errors import Reason
from tests import clips

WIDTH_PX, HEIGHT_PX = 64, 48


def draw_video(path: Path, *, seed: int, seconds: int = 3) -> Path:
    """A moving scene and a still end, at 5 frames a second."""
    moving = clips.moving(
        5 * (seconds - 1), height_px=HEIGHT_PX, width_px=WIDTH_PX, step_px=3, seed=seed
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    named = clips.write_clip(
        path.with_name(f"{path.name}.mp4"), [*moving, *[moving[-1]] * 5], fps=5
    )
    return named.rename(path)


def draw_archive(root: Path) -> dict[Path, Path]:
    """Three videos and two copies; path of each file, and of the first with its content."""
    a = draw_video(root / "2024" / "a.mp4", seed=1)
    b = draw_video(root / "2024" / "trip" / "b.mkv", seed=2)
    c = draw_video(root / "2025" / "no suffix", seed=3)
    copies = {root / "2025" / "copy of a.mp4": a, root / "z" / "deep" / "b again.mp4": b}
    for copy, original in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, copy)
    (root / "2024" / "notes.txt").write_text("Who is at the door?\n" * 50)
    (root / "2024" / "cover.png").write_bytes(_picture(".png"))
    (root / ".hidden.mp4").write_text("not even looked at")
    return {a: a, b: b, c: c, **copies}


def draw_hostile(folder: Path) -> dict[Path, Reason]:
    """Ten files that are called videos and cannot be used, and why."""
    folder.mkdir(parents=True)
    found = {}
    for name, (make, reason) in _HOSTILE.items():
        make(folder / name)
        found[folder / name] = reason
    return found


def _picture(suffix: str) -> bytes:
    return cv2.imencode(suffix, clips.texture(48, 64))[1].tobytes()


def _stub(path: Path) -> None:
    """An index and the beginning of the first frame."""
    frames = clips.moving(30, height_px=96, width_px=128, step_px=2)
    clips.write_clip(path, frames, container_options={"movflags": "faststart"})
    clips.truncate(path, keep=0.12)


_HOSTILE: dict[str, tuple[Callable[[Path], object], Reason]] = {
    "a picture.mp4": (lambda path: path.write_bytes(_picture(".jpg")), Reason.NOT_VIDEO),
    "a playlist.mp4": (
        lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
        Reason.NOT_VIDEO,
    ),
    "a text.MOV": (lambda path: path.write_text("Who?\n" * 500), Reason.NOT_VIDEO),
    "cut off.mp4": (
        lambda path: clips.truncate(draw_video(path, seed=9), keep=0.5),
        Reason.NOT_VIDEO,
    ),
    "dangling.mp4": (lambda path: path.symlink_to("nothing"), Reason.UNREADABLE),
    "empty.mp4": (lambda path: path.touch(), Reason.EMPTY),
    "no frame.mp4": (_stub, Reason.UNDECODABLE),
    "noise.mkv": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(100_000)),
        Reason.NOT_VIDEO,
    ),
    "sound.mp4": (clips.write_audio, Reason.NO_PICTURE),
    "zeros.mpg": (lambda path: path.write_bytes(bytes(100_000)), Reason.NOT_VIDEO),
}
