"""What Slurm gets, and what its batch script does; `make test-slurm` runs it on a real one."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import jobs.slurm
from jobs.errors import JobError
from jobs.shards import Stage
from jobs.slurm.engine import Submission, program, script, submit

RECORDED = Path(jobs.slurm.__file__).with_name("index.sh")

COMMAND = (
    *("/opt/sali-cache/bin/python", "-m", "batch", "index", "/data/videos"),
    *("--out", "/data/caches", "--model", "MODEL", "--jobs", "8"),
)
STAGES = [
    Stage(name="identify", command=(*COMMAND, "--phase", "identify"), tasks=16, cpus=8, gpus=0),
    Stage(name="analyze", command=(*COMMAND, "--phase", "analyze"), tasks=16, cpus=8, gpus=0),
    Stage(name="prefill", command=(*COMMAND, "--phase", "prefill"), tasks=4, cpus=1, gpus=1),
]
SUBMISSION = Submission(
    name="caches",
    logs=Path("/data/caches/logs"),
    options=("--time=8:00:00",),
    gpu_options=("--partition=gpu --cpus-per-task=4",),
)

FAKE_SBATCH = """\
#!/bin/bash
count=$(ls {folder}/submitted* 2> /dev/null | wc -l)
[ "$count" = {refuse} ] && {{ echo "sbatch: error: no such partition" >&2; exit 1; }}
{{ echo "$@"; cat; }} > {folder}/submitted$count
echo $((100 + count))
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that come first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def add_tool(tools: Path, name: str, text: str) -> None:
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)


def test_the_text_is_the_recorded_one() -> None:
    assert program(STAGES, SUBMISSION) == RECORDED.read_text()


def test_the_recorded_text_is_bash() -> None:
    subprocess.run(["bash", "-n", RECORDED], check=True)


def test_each_stage_is_submitted_to_begin_after_the_one_before(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "sbatch", FAKE_SBATCH.format(folder=tmp_path, refuse="never"))
    submission = replace(SUBMISSION, logs=tmp_path / "o'clock" / "logs")
    told: list[str] = []
    submit(STAGES, submission, told.append)
    assert told == ["identify 100", "analyze 101", "prefill 102"]
    assert submission.logs.is_dir()
    before = ["singleton", "singleton,afterany:100", "singleton,afterany:101"]
    for index, (stage, dependency) in enumerate(zip(STAGES, before, strict=True)):
        words, text = (tmp_path / f"submitted{index}").read_text().split("\n", 1)
        assert words == f"--parsable --dependency={dependency}"
        assert text == script(stage, submission)


def test_folders_whose_names_are_no_text_are_submitted(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "sbatch", FAKE_SBATCH.format(folder=tmp_path, refuse="never"))
    submission = replace(SUBMISSION, logs=tmp_path / os.fsdecode(b"\xff"))
    submit(STAGES[:1], submission, print)
    assert submission.logs.is_dir()


def test_a_refusal_is_told_with_what_was_submitted_before(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "sbatch", FAKE_SBATCH.format(folder=tmp_path, refuse="2"))
    told: list[str] = []
    submission = replace(SUBMISSION, logs=tmp_path / "logs")
    with pytest.raises(JobError, match="exit code 1: sbatch: error: no such partition"):
        submit(STAGES, submission, told.append)
    assert told == ["identify 100", "analyze 101"]


def test_without_sbatch_the_error_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JobError, match="sbatch: not on this machine"):
        submit(STAGES, SUBMISSION, print)


class Task:
    """The batch script of task 3 of 4 as Slurm runs it, with a fake scontrol."""

    def __init__(self, tools: Path, code: str) -> None:
        self.requeued = tools / "requeued"
        self.shard = tools / "shard"
        add_tool(tools, "scontrol", f'#!/bin/bash\necho "$@" > {self.requeued}\n')
        command = (sys.executable, "-c", f"import signal, sys, time\n{code}", str(self.shard))
        stage = Stage(name="analyze", command=command, tasks=4, cpus=1, gpus=0)
        add_tool(tools, "batch-script", script(stage, SUBMISSION))
        self.process = subprocess.Popen(
            [tools / "batch-script"],
            env={**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
            start_new_session=True,
        )

    def wait_until_it_listens(self) -> None:
        until = time.monotonic() + 30
        while not self.shard.exists():
            assert time.monotonic() < until
            time.sleep(0.02)

    def let_it_end(self) -> None:
        """A task that was told to stop may."""
        self.shard.with_name("shard.go-on").touch()

    def end(self) -> int:
        return self.process.wait(timeout=30)


LISTENS = """
from pathlib import Path
go_on = Path(sys.argv[1] + ".go-on")
def stop(number, frame):
    while not go_on.exists():
        time.sleep(0.01)
    sys.exit(75)
signal.signal(signal.{signal}, stop)
Path(sys.argv[1]).touch()
time.sleep(30)
"""


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_script_ends_as_the_task_does(tools: Path, code: int) -> None:
    task = Task(tools, f"sys.exit({code} if sys.argv[-2:] == ['--shard', '3/4'] else 9)")
    assert task.end() == code
    assert not task.requeued.exists()


def test_a_task_that_is_told_that_its_time_is_up_ends_in_good_order_and_is_requeued(
    tools: Path,
) -> None:
    task = Task(tools, LISTENS.format(signal="SIGUSR1"))
    task.wait_until_it_listens()
    for _ in range(3):  # each ends a wait of the shell
        task.process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    task.let_it_end()
    assert task.end() == 75
    assert task.requeued.read_text() == "requeue 7_3\n"


def test_a_task_that_waits_for_another_run_is_requeued(tools: Path) -> None:
    task = Task(tools, "sys.exit(75)")
    assert task.end() == 75
    assert task.requeued.exists()


def test_a_task_that_does_not_listen_yet_is_requeued(tools: Path) -> None:
    task = Task(tools, "from pathlib import Path; Path(sys.argv[1]).touch(); time.sleep(30)")
    task.wait_until_it_listens()
    task.process.send_signal(signal.SIGUSR1)
    assert task.end() == 128 + signal.SIGUSR1
    assert task.requeued.exists()


def test_a_task_that_is_cancelled_is_not_requeued(tools: Path) -> None:
    task = Task(tools, LISTENS.format(signal="SIGTERM"))
    task.wait_until_it_listens()
    os.killpg(task.process.pid, signal.SIGTERM)
    task.let_it_end()
    assert task.end() == 75
    assert not task.requeued.exists()
