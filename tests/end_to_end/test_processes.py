"""The commands as real processes: the whole way, and what happens when one is ended early."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import open_family
from cachefmt import CacheFile
from tests import clips, tiny
from tests.cachefmt.files import write_file
from tests.cli.running import Started, batch, objects, succeed
from tests.manifests import geometry_of, make_manifest, random_pictures

ROOT = Path(__file__).parents[2]
LONG_SAMPLES = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with room for a long video."""
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny", context=8 * LONG_SAMPLES)


@pytest.fixture(scope="module")
def long_manifest(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose prefill takes a while, one sample a block."""
    geometry = geometry_of(open_family(str(model)))
    path = tmp_path_factory.mktemp("long") / "long.parquet"
    make_manifest(random_pictures(LONG_SAMPLES, geometry), geometry).write(path)
    return path


def start(*words: object, stdin: IO[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "batch", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: object, stdin: IO[str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends by itself."""
    process = start(*words, stdin=stdin)
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def started_prefill(model: Path, manifest: Path, out: Path) -> Started:
    """A prefill in the middle of writing its file."""
    process = Started("prefill", manifest, "--out", out, "--model", model, "--block-samples", 1)
    while process.returncode is None and not list(out.glob(".long.safetensors.*.tmp")):
        time.sleep(0.002)
    time.sleep(0.05)
    return process


def test_from_a_video_to_answers_after_the_video_is_gone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = clips.moving(30, height_px=48, width_px=64, step_px=3)
    video = clips.write_clip(tmp_path / "clip.mp4", [*moving, *[clips.flat(48, 64)] * 30])
    cache, out = tmp_path / "out" / "clip.safetensors", tmp_path / "out"
    code, printed, errors = run("prefill", video, "--out", out, "--model", model)
    assert (code, printed) == (0, f"{cache}\n")
    assert re.fullmatch(r"1 done; [\d,]+ bytes, \d+\.\d s\n", errors)
    video.unlink()
    (out / "clip.parquet").unlink()
    command = ("answer", cache, "--max-new-tokens", 6, "--json")
    questions = tmp_path / "questions.txt"
    questions.write_text("what is the red star doing ?\na b ?\n")
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")  # OpenMP says what it goes by, when it is loaded
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    with questions.open() as lines:
        code, printed, errors = run(*command, stdin=lines)
    assert code == 0
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in errors  # threads of torch sleep while they wait
    said = errors.rpartition("OPENMP DISPLAY ENVIRONMENT END\n")[2]
    assert re.fullmatch(r"\d answered in .* s, scope whole; [\d,]+ bytes loaded in .*\n", said)
    asked = [json.loads(line)["question"] for line in printed.splitlines()]
    assert asked == questions.read_text().splitlines()
    assert sorted(path.name for path in out.iterdir()) == ["clip.safetensors"]


def test_a_killed_prefill_leaves_no_cache_and_the_same_command_completes_it(
    model: Path, long_manifest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "long.safetensors"
    process = started_prefill(model, long_manifest, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    assert succeed("prefill", long_manifest, "--out", tmp_path, "--model", model) == [str(target)]
    assert succeed("verify", target) == [f"{target}: whole"]
    with CacheFile.open(target) as cache:
        assert cache.header.shape.samples == LONG_SAMPLES


def test_a_killed_prefill_of_a_long_video_loses_at_most_the_segment_in_work(tmp_path: Path) -> None:
    model = tiny.llava_next(tmp_path / "narrow", context=ROOM_FOR_ANSWER + 150)
    geometry = geometry_of(open_family(str(model)))
    manifest, out = tmp_path / "long.parquet", tmp_path / "out"
    make_manifest(random_pictures(LONG_SAMPLES, geometry), geometry).write(manifest)
    command = ("prefill", manifest, "--out", out, "--model", model, "--block-samples", 1)
    process, target = Started(*command), out / "long.segments"
    while process.returncode is None and not (target / "00002.safetensors").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("*.safetensors")}
    refused = batch("answer", target, "-q", "a b")
    assert refused.exit_code == 1
    assert "is missing: " in refused.stderr
    (found,) = objects(succeed(*command, "--json"))
    assert found["written"]
    assert found["segments_written"] == found["segments"] - len(before)
    after = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert len(after) == found["segments"]  # and nothing else is left
    assert after.items() >= before.items()
    assert succeed("verify", target) == [f"{target}: whole"]


def test_an_interrupted_prefill_says_so_in_a_line_and_leaves_nothing(
    model: Path, long_manifest: Path, tmp_path: Path
) -> None:
    process = started_prefill(model, long_manifest, tmp_path)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate()
    assert (process.returncode, printed, errors) == (130, "", "\ninterrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_left_gets_no_traceback(tmp_path: Path) -> None:
    process = start("inspect", write_file(tmp_path / "x.safetensors"))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=300) == 128 + signal.SIGPIPE


def test_a_prompt_on_a_terminal_asks_remembers_and_ends(model: Path, tmp_path: Path) -> None:
    geometry, manifest = geometry_of(open_family(str(model))), tmp_path / "x.parquet"
    make_manifest(random_pictures(4, geometry), geometry).write(manifest)
    succeed("prefill", manifest, "--out", tmp_path, "--model", model)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "ask", tmp_path, "--max-new-tokens", "4"],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    # A key that ends input means nothing before the prompt listens.
    said, typed = b"", [b"what is the red star doing ?\n", b"/video\n", b"\x04"]
    too_long = threading.Timer(300, process.kill)
    too_long.start()
    with contextlib.suppress(OSError):  # what Linux says of a terminal that nobody holds any more
        while chunk := os.read(ours, 1 << 16):
            said += chunk
            if typed and said.endswith(b"? "):
                os.write(ours, typed.pop(0))
    too_long.cancel()
    _, errors = process.communicate(timeout=300)
    os.close(ours)
    assert process.returncode == 0, errors
    assert re.search(rb"\? what is the red star doing \?\r\n.*\r\n  at 00:", said, re.DOTALL)
    assert re.search(r"asking \S+\n\* [0-9a-f]{12}  ", errors)
    history = (tmp_path / "state" / "sali-cache" / "history").read_text()
    assert history.splitlines()[:1] == ["what is the red star doing ?"]


@pytest.mark.long
def test_two_runs_of_one_prefill_do_its_work_once(model: Path, tmp_path: Path) -> None:
    moving = clips.moving(30, height_px=48, width_px=64, step_px=3)
    video = clips.write_clip(tmp_path / "clip.mp4", moving)
    runs = [start("prefill", video, "--out", tmp_path / "out", "--model", model) for _ in "ab"]
    said = sorted(run.communicate(timeout=300)[1].split(";")[-2].split("\n")[-1] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert said == ["1 done", "1 skipped"]
