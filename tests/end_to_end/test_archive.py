"""An archive run as a process: ended early in every way, and resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.archive.archives import draw_hostile, draw_video
from tests.archive.contents import contents
from tests.archive.indexing import remember
from tests.cli.running import batch
from tests.end_to_end.kills import differences, kill_often

ROOT = Path(__file__).parents[2]
TELLING = """
import sys
from batch.cli import main
try:
    main(prog_name="batch")
finally:
    print(*sys.modules, file=sys.stderr)
"""
"""`python -m batch`, which says at its end what it has imported."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough videos for a run of some seconds."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(6):
        draw_video(folder / str(number % 2) / f"{number}.mp4", seed=number, seconds=6)
    shutil.copy(folder / "0" / "0.mp4", folder / "copy.mp4")
    draw_hostile(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def known(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches that knows the model, and holds none."""
    return remember(model, tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def whole(
    archive: Path, model: Path, known: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What an undisturbed run makes."""
    out = tmp_path_factory.mktemp("whole")
    shutil.copytree(known, out, dirs_exist_ok=True)
    assert batch("index", archive, "--out", out, "--model", model).exit_code == 3
    return out


class Halted:
    """A run that waits with its first result until somebody listens, so that it cannot end."""

    def __init__(self, archive: Path, out: Path, model: Path) -> None:
        self._listening, said = os.pipe()
        os.set_blocking(said, False)
        self._filled = 0
        with suppress(BlockingIOError):
            while True:
                self._filled += os.write(said, bytes(1 << 10))
        os.set_blocking(said, True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TELLING, "index", archive, "--out", out, "--model", model],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(said)
        wait_for(self.process, lambda: next(out.glob("works/*/done/*/*.json"), None))

    def end(self) -> tuple[list[str], str, set[str]]:
        """Listen; the paths that were printed, what was said on stderr, and what was imported."""
        with open(self._listening, encoding="utf-8") as stdout:
            printed = stdout.read()[self._filled :]
        _, errors = self.process.communicate(timeout=120)
        *said, modules = errors.splitlines()
        return printed.splitlines(), "\n".join(said), set(modules.split())


def wait_for(process: "subprocess.Popen[str]", is_so: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def out(known: Path, tmp_path: Path) -> Path:
    shutil.copytree(known, tmp_path / "out")
    return tmp_path / "out"


def test_a_run_that_is_asked_to_stop_leaves_whole_files_and_goes_on(
    archive: Path, model: Path, whole: Path, out: Path
) -> None:
    run = Halted(archive, out, model)
    run.process.send_signal(signal.SIGINT)
    printed, errors, modules = run.end()
    assert run.process.returncode == 75
    assert "batch.archive.run" in modules
    assert not modules & {"torch", "transformers"}  # it only directs those that need them
    assert "stopped by SIGINT, the same command goes on" in errors
    assert "Traceback" not in errors
    assert 1 <= len(printed) < 6
    assert sorted(map(str, out.rglob("*.safetensors"))) == sorted(printed)
    assert [path.name for path in (out / "runs").iterdir()] == [".lock"]
    assert batch("index", archive, "--out", out, "--model", model).exit_code == 3
    assert differences(contents(whole), contents(out)) == []


def test_a_second_signal_drops_what_is_under_way(archive: Path, model: Path, out: Path) -> None:
    run = Halted(archive, out, model)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    printed, errors, _ = run.end()
    assert run.process.returncode == 75
    assert "Traceback" not in errors
    assert sorted(map(str, out.rglob("*.safetensors"))) == sorted(printed)
    assert [path.name for path in (out / "runs").iterdir()] == [".lock"]


def test_a_run_that_is_stopped_while_it_asks_the_model_has_done_nothing(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "index", archive, "--out", tmp_path, "--model", model],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, lambda: b"spawn_main" in children(process.pid))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert list(tmp_path.iterdir()) == []


def children(parent: int) -> bytes:
    """Command lines of a process's children."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    said = b""
    for child in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            said += Path(f"/proc/{child}/cmdline").read_bytes()
    return said


@pytest.mark.long
def test_kills_at_random_moments_change_nothing_of_what_comes_out(
    archive: Path, model: Path, whole: Path, out: Path
) -> None:
    hit = kill_often(archive, out, "--model", model, times=4, within_s=6, seed=3)
    assert hit["exit code 3"] == 1
    assert differences(contents(whole), contents(out)) == []


def test_a_difference_would_be_noticed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    cache = next(out.rglob("*.safetensors"))
    manifest = next((out / "analyses").rglob("*.parquet"))
    record = next((out / "works").rglob("done/*/*.json"))
    shutil.copy(next(path for path in out.rglob("*.safetensors") if path != cache), cache)
    shutil.copy(
        next(path for path in (out / "analyses").rglob("*.parquet") if path != manifest), manifest
    )
    record.write_text(record.read_text().replace('"slots": ', '"slots": 1'))
    (out / "runs" / "left over").touch()
    expected = {cache, manifest, record, out / "runs" / "left over"}
    found = differences(contents(whole), contents(out))
    assert {out / name for name in found} == expected
