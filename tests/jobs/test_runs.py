"""Runs that share a folder: who lives, who is dead, what the dead left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import runs
from jobs.errors import BusyError, JobError
from jobs.runs import Run, live_runs
from jobs.shards import Shard

ROOT = Path(__file__).parents[2]
ALL = Shard()


def killed_run(root: Path) -> Path:
    """The folder of a run whose process was killed, with an unfinished file."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from jobs.runs import Run; from jobs.shards import Shard\n"
        "run = Run.begin(Path(sys.argv[1]), {'work': Shard()})\n"
        "(run.folder / '.x.1.tmp').write_text('half')\n"
        "print(run.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, root], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == -signal.SIGKILL
    return Path(process.stdout.strip())


def test_a_run_is_seen_while_it_lives_and_leaves_no_folder(tmp_path: Path) -> None:
    with Run.begin(tmp_path, {"work": ALL}) as run:
        (seen,) = live_runs(tmp_path)
        assert seen == run.info
        assert (seen.pid, seen.claims) == (os.getpid(), {"work": ALL})
        (run.folder / "unfinished").touch()
    assert live_runs(tmp_path) == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".lock"]


def test_two_runs_do_not_work_on_the_same(tmp_path: Path) -> None:
    half = Shard(index=0, count=2)
    with Run.begin(tmp_path, {"work": half}):
        with pytest.raises(BusyError, match=rf"process {os.getpid()} on .* shard 0/2 of the same"):
            Run.begin(tmp_path, {"work": ALL})
        with (
            Run.begin(tmp_path, {"work": Shard(index=1, count=2)}),
            Run.begin(tmp_path, {"other work": ALL}),
        ):
            assert len(live_runs(tmp_path)) == 3
    with Run.begin(tmp_path, {"work": ALL}):
        pass


def test_the_last_run_of_a_kind_hears_so_when_it_resigns(tmp_path: Path) -> None:
    halves = [Run.begin(tmp_path, {"work": Shard(index=index, count=2)}) for index in range(2)]
    other = Run.begin(tmp_path, {"other work": ALL})
    assert [run.release_claims() for run in (*halves, other)] == [False, True, True]
    assert [run.claims for run in live_runs(tmp_path)] == [{}, {}, {}]
    for run in (*halves, other):
        with run:
            pass
    assert live_runs(tmp_path) == []


def test_what_a_killed_run_left_is_removed_and_its_claim_is_void(tmp_path: Path) -> None:
    left = killed_run(tmp_path)
    assert sorted(path.name for path in left.iterdir()) == [".x.1.tmp", "lock"]
    assert live_runs(tmp_path) == []
    with Run.begin(tmp_path, {"work": ALL}):
        assert not left.exists()


def test_a_live_run_s_unfinished_files_are_left_alone(tmp_path: Path) -> None:
    with Run.begin(tmp_path, {"work": ALL}) as run:
        (run.folder / "unfinished").touch()
        with Run.begin(tmp_path, {"other work": ALL}):
            assert (run.folder / "unfinished").exists()


def test_a_run_of_another_host_is_dead_only_after_a_long_silence(tmp_path: Path) -> None:
    left = killed_run(tmp_path)
    said = json.loads((left / "lock").read_text())
    (left / "lock").write_text(json.dumps({**said, "host": "elsewhere", "boot": "another"}))
    assert len(live_runs(tmp_path)) == 1
    for away_s in (-runs.FOREIGN_DEAD_AFTER_S - 1, runs.FOREIGN_DEAD_AFTER_S + 60):
        then = time.time() + away_s
        os.utime(left / "lock", (then, then))
        assert live_runs(tmp_path) == []


def test_a_dead_run_of_this_machine_is_dead_whatever_it_called_its_host(tmp_path: Path) -> None:
    left = killed_run(tmp_path)
    said = json.loads((left / "lock").read_text())
    (left / "lock").write_text(json.dumps({**said, "host": "5c1f0a"}))
    assert live_runs(tmp_path) == []


def test_a_run_that_died_while_it_registered_is_dead(tmp_path: Path) -> None:
    for name, text in (("no-lock", None), ("empty-lock", ""), ("half-lock", '{"id":')):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if text is not None:
            (tmp_path / "runs" / name / "lock").write_text(text)
    with Run.begin(tmp_path, {"work": ALL}) as run:
        assert live_runs(tmp_path) == [run.info]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match=r"file: this folder cannot be written"):
        Run.begin(tmp_path / "file", {"work": ALL})
