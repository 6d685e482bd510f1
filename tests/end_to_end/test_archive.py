"""An archive run as a process: ended early in every way, and resumed."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.archive.archives import draw_hostile, draw_video
from tests.archive.contents import contents
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
def whole(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes."""
    out = tmp_path_factory.mktemp("whole")
    assert start(archive, out, "--model", model).wait(timeout=300) == 3
    return out


def index(archive: Path, out: Path, model: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "batch", "index", archive, "--out", out, "--model", model],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: "subprocess.Popen[str]", out: Path, pattern: str) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and not list(out.glob(pattern)) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_leaves_whole_files_and_goes_on(
    archive: Path, model: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    shutil.copytree(whole / "models", tmp_path / "models")
    process = index(archive, tmp_path, model)
    wait_for(process, tmp_path, "analyses/*/done/*/*.json")
    process.send_signal(number)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert f"stopped by {number.name}, the same command goes on" in errors
    assert "Traceback" not in errors
    assert sorted(map(str, tmp_path.rglob("*.safetensors"))) == sorted(printed.splitlines())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".lock"]
    assert start(archive, tmp_path, "--model", model).wait(timeout=300) == 3
    assert differences(contents(whole), contents(tmp_path)) == []


def test_a_second_signal_drops_what_is_under_way(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "models", tmp_path / "models")
    process = index(archive, tmp_path, model)
    wait_for(process, tmp_path, "analyses/*/done/*/*.json")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Traceback" not in errors
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".lock"]


def test_a_run_that_is_stopped_while_it_asks_the_model_has_done_nothing(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    process = index(archive, tmp_path / "out", model)
    wait_for(process, tmp_path, "out")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (75, -signal.SIGTERM)  # the latter before it listens
    assert list(tmp_path.rglob("*.json*")) == []


def test_the_process_that_directs_the_others_never_loads_torch(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    draw_video(tmp_path / "archive" / "one.mp4", seed=1, seconds=2)
    shutil.copytree(whole / "models", tmp_path / "out" / "models")
    code = (
        "import sys\n"
        "from batch.cli import main\n"
        "if __name__ == '__main__':\n"
        "    main(sys.argv[1:], standalone_mode=False)\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    words = ("index", tmp_path / "archive", "--out", tmp_path / "out", "--model", model)
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.endswith(".safetensors\n")
    modules = set(done.stderr.splitlines()[-1].split())
    assert "batch.archive.index" in modules
    assert not modules & {"torch", "transformers"}


def test_kills_at_random_moments_change_nothing_of_what_comes_out(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "models", tmp_path / "models")
    hit = kill_often(archive, tmp_path, "--model", model, times=5, within_s=8, seed=3)
    assert hit["exit code 3"] == 1
    assert differences(contents(whole), contents(tmp_path)) == []


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
