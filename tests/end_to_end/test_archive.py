"""An archive run as a process: ended early in every way, and resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.archive.archives import draw_hostile, draw_video
from tests.archive.contents import contents
from tests.archive.indexing import remember
from tests.end_to_end.kills import differences, kill_often, start

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny")


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


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody stopped: its folder, and what its main process had imported at the end."""

    out: Path
    modules: set[str]


@pytest.fixture(scope="module")
def undisturbed(
    archive: Path, model: Path, known: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    out = tmp_path_factory.mktemp("whole")
    shutil.copytree(known, out, dirs_exist_ok=True)
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(
        "import sys\n"
        "from batch.cli import main\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        main()\n"
        "    finally:\n"
        "        print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, script, "index", archive, "--out", out, "--model", model],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    return Undisturbed(out=out, modules=set(done.stderr.splitlines()[-1].split()))


@pytest.fixture(scope="module")
def whole(undisturbed: Undisturbed) -> Path:
    """What an undisturbed run makes."""
    return undisturbed.out


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
            [sys.executable, "-m", "batch", "index", archive, "--out", out, "--model", model],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(said)
        wait_for(self.process, lambda: next(out.glob("works/*/done/*/*.json"), None))

    def end(self) -> tuple[list[str], str]:
        """Listen; the paths that were printed, and what was said on stderr."""
        with open(self._listening, encoding="utf-8") as stdout:
            printed = stdout.read()[self._filled :]
        _, errors = self.process.communicate(timeout=120)
        return printed.splitlines(), errors


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
    printed, errors = run.end()
    assert run.process.returncode == 75
    assert "stopped by SIGINT, the same command goes on" in errors
    assert "Traceback" not in errors
    assert 1 <= len(printed) < 6
    assert sorted(map(str, out.rglob("*.safetensors"))) == sorted(printed)
    assert [path.name for path in (out / "runs").iterdir()] == [".lock"]
    assert start(archive, out, "--model", model).wait(timeout=300) == 3
    assert differences(contents(whole), contents(out)) == []


def test_a_second_signal_drops_what_is_under_way(archive: Path, model: Path, out: Path) -> None:
    run = Halted(archive, out, model)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    printed, errors = run.end()
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


def test_the_process_that_directs_the_others_never_loads_torch(undisturbed: Undisturbed) -> None:
    assert "batch.archive.run" in undisturbed.modules
    assert not undisturbed.modules & {"torch", "transformers"}


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
