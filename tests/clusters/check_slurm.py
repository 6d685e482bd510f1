"""An archive indexed by a real Slurm, two of whose tasks are stopped; `make test-slurm` runs it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.runs import live_runs
from tests import tiny
from tests.archive.archives import draw_archive, draw_hostile
from tests.clusters.outcome import ROOT, products, wait_for
from tests.clusters.slurm_node import slurm, task_states


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)) as environment:
        yield environment


def index(*words: object, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Exit code of the command and the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "batch", "index", *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines()


def running_task(out: Path, phase: str) -> int:
    """The task of a run that has just registered."""

    def look() -> int | None:
        claims = [
            shard.index
            for run in live_runs(out)
            for kind, shard in run.claims.items()
            if kind.startswith(phase)
        ]
        return claims[0] if claims else None

    return wait_for(look, f"a run that does {phase}")


def test_stopped_tasks_are_requeued_and_all_is_as_on_one_machine(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    def tell(*command: object) -> None:
        subprocess.run(list(map(str, command)), env=cluster, check=True)

    def stop(job: str, phase: str, *command: str) -> int:
        """Stop a task, see that it waits again, and shorten the two minutes that Slurm waits."""
        task = running_task(out, phase)
        tell(*command, f"{job}_{task}")

        def waits() -> bool | None:
            state = task_states(cluster, job)[task]
            return True if (state["JobState"], state["Restarts"]) == ("PENDING", "1") else None

        wait_for(waits, f"{phase} {task} to be requeued")
        # Not at once: a node does not launch a job that it is just done killing (22.05).
        tell("scontrol", "update", f"JobId={job}_{task}", "StartTime=now+15")
        return task

    def all_ended() -> dict[str, dict[int, dict[str, str]]] | None:
        states = {phase: task_states(cluster, job) for phase, job in jobs.items()}
        over = {task["JobState"] for tasks in states.values() for task in tasks.values()}
        return states if over <= {"COMPLETED", "FAILED"} else None

    archive, local, out = tmp_path / "archive", tmp_path / "local", tmp_path / "on a cluster"
    model = tiny.llava_next(tmp_path / "model")
    draw_archive(archive)
    draw_hostile(archive / "hostile")
    assert index(archive, "--out", local, "--model", model)[0] == 3

    code, lines = index(
        *(archive, "--out", out, "--model", model, "--jobs", 1),
        *("--engine", "slurm", "--tasks", 2, "--gpu-tasks", 2, "--sbatch=--comment='a test'"),
        environment=cluster,
    )
    assert code == 0
    jobs = dict(line.split() for line in lines)
    assert list(jobs) == ["identify", "analyze", "prefill"]
    analyze = stop(jobs["analyze"], "analyze", "scancel", "--batch", "--signal=USR1")
    prefill = stop(jobs["prefill"], "prefill", "scontrol", "requeue")
    states = wait_for(all_ended, "all tasks to end")

    codes = {
        phase: {task["ExitCode"] for task in tasks.values()} for phase, tasks in states.items()
    }
    assert codes["identify"] <= {"0:0", "3:0"}
    assert "3:0" in codes["identify"]
    assert (codes["analyze"], codes["prefill"]) == ({"0:0"}, {"0:0"})
    restarts = {
        (phase, index)
        for phase, tasks in states.items()
        for index, task in tasks.items()
        if task["Restarts"] != "0"
    }
    assert restarts == {("analyze", analyze), ("prefill", prefill)}
    assert all("gres:gpu" in task["TresPerNode"] for task in states["prefill"].values())
    (log,) = (out / "logs").glob(f"analyze-*_{analyze}.log")
    assert "stopped by SIGUSR1, the same command goes on" in log.read_text()
    assert products(out) == products(local)


def test_a_cancelled_task_is_not_requeued(cluster: dict[str, str], tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "caches"
    draw_archive(archive)
    command = (archive, "--out", out, "--engine", "slurm", "--tasks", 1)
    jobs = dict(line.split() for line in index(*command, environment=cluster)[1])
    running_task(out, "identify")
    subprocess.run(["scancel", *jobs.values()], env=cluster, check=True)

    def ended() -> str | None:
        state = task_states(cluster, jobs["identify"])[0]["JobState"]
        return None if state in ("RUNNING", "COMPLETING") else state

    assert wait_for(ended, "the task to end") == "CANCELLED"
    assert live_runs(out) == []
