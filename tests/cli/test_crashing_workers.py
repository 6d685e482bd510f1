"""A process that dies over a video costs that video, and Ctrl-C ends all of them."""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests import clips
from tests.cli.running import Started

VIDEOS = 10


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that takes a while to decode."""
    frames = clips.moving(1_000, height_px=96, width_px=128, step_px=1)
    return clips.write_clip(tmp_path_factory.mktemp("drawn") / "video.mp4", frames)


@pytest.fixture
def videos(drawn: Path, tmp_path: Path) -> list[Path]:
    """Copies of it."""
    found = [tmp_path / f"video{number}.mp4" for number in range(VIDEOS)]
    for video in found:
        shutil.copy(drawn, video)
    return found


def video_open_in(process: Path) -> Path | None:
    """The video that a process has open, by /proc."""
    try:
        opened = [Path(os.readlink(file)) for file in (process / "fd").iterdir()]
    except OSError:  # it ended meanwhile
        return None
    return next((path for path in opened if path.suffix == ".mp4"), None)


def children_of(parent: int) -> list[str]:
    """Of all its threads; those of joblib start the workers."""
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):  # the thread ended meanwhile
            found += children.read_text().split()
    return found


def decoding(parent: int) -> tuple[int, Path]:
    """A child that decodes a video, and which one; waits for it."""
    for _ in range(1_200):
        for child in children_of(parent):
            video = video_open_in(Path("/proc") / child)
            if video is not None:
                return int(child), video
        time.sleep(0.05)
    raise TimeoutError("no worker opened a video")


def start(command: str, model: Path, videos: list[Path]) -> Started:
    words = ("--out", videos[0].parent / "out", "--model", model, "--jobs", 2, "--max-samples", 4)
    return Started(command, *videos, *words)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_crashed_worker_is_named_with_its_video_and_all_others_are_done(
    model: Path, videos: list[Path], tmp_path: Path
) -> None:
    running = start("prefill", model, videos)
    child, victim = decoding(running.pid)
    os.kill(child, signal.SIGSEGV)
    stdout, stderr = running.communicate()
    done = {f"{tmp_path}/out/{video.stem}.safetensors" for video in videos if video != victim}
    assert (running.returncode, set(stdout.splitlines())) == (3, done)
    assert f"error: {victim}: its process was ended by SIGSEGV" in stderr
    assert f"{VIDEOS - 1} done, 1 failed" in stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupted_analysis_says_so_in_a_line_and_leaves_no_half_manifest(
    model: Path, videos: list[Path], tmp_path: Path
) -> None:
    running = start("analyze", model, videos)
    decoding(running.pid)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate()
    assert (running.returncode, stderr) == (130, "\ninterrupted\n")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left >= {Path(line).name for line in stdout.splitlines()}
    assert all(name.endswith(".parquet") and name[0] != "." for name in left)
