"""Submits stages to Slurm, and leaves them to it. What it submits is text, from pure functions."""

import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import JobError
from jobs.shards import Stage
from jobs.stopping import STOPPED

SIGNAL_BEFORE_S = 60
"""Slurm asks a task to stop so long before its time is up; a run needs a few seconds."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """How stages are submitted.

    - name: jobs of the same stage and name never run at the same time.
    - logs: folder that all nodes see.
    - options: of sbatch, as `--account=films`, for all stages, as they stand after `#SBATCH`;
      gpu_options come after them in stages that need a GPU, and the last one counts.
    """

    name: str
    logs: Path
    options: tuple[str, ...] = ()
    gpu_options: tuple[str, ...] = ()


def submit(
    stages: Sequence[Stage], submission: Submission, report: Callable[[str], object]
) -> None:
    """Submit array jobs, each after the one before; Slurm requeues the tasks that were stopped.

    `report` is given name and job ID of each stage.

    Raises:
        JobError: there is no sbatch, or it refuses; stages before may be submitted already.
    """
    if shutil.which("sbatch") is None:
        raise JobError(
            "sbatch: not on this machine; run the same command where jobs are submitted, or "
            "take its program there: --print"
        )
    done = subprocess.run(
        ["bash"],
        input=program(stages, submission),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # names of folders need not be UTF-8
        check=False,
    )
    for line in done.stdout.splitlines():
        report(line)
    if done.returncode:
        raise JobError(f"sbatch refused with exit code {done.returncode}: {done.stderr.strip()}")


def program(stages: Sequence[Stage], submission: Submission) -> str:
    """A bash program that submits each stage to begin after the one before, and prints the IDs."""
    parts = ["#!/bin/bash", "set -e", f"mkdir -p {shlex.quote(str(submission.logs))}"]
    before = ""
    for stage in stages:
        # afterany: a stage that could not do all (exit code 3) does not keep back the next.
        parts += [
            "",
            f"{stage.name}=$(sbatch --parsable --dependency=singleton{before} << 'SCRIPT'",
            f"{script(stage, submission)}SCRIPT",
            ")",
            f'echo "{stage.name} ${stage.name}"',
        ]
        before = f",afterany:${{{stage.name}%;*}}"
    return "\n".join(parts) + "\n"


def script(stage: Stage, submission: Submission) -> str:
    """The batch script of one stage: an array with an element for each task."""
    options = [
        f"--job-name={shlex.quote(f'{stage.name}-{submission.name}')}",
        f"--array=0-{stage.tasks - 1}",
        f"--cpus-per-task={stage.cpus}",
        *([f"--gres=gpu:{stage.gpus}"] if stage.gpus else ()),
        f"--output={shlex.quote(str(submission.logs / '%x-%A_%a.log'))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{SIGNAL_BEFORE_S}",
        *submission.options,
        *(submission.gpu_options if stage.gpus else ()),
    ]
    lines = "\n".join(f"#SBATCH {option}" for option in options)
    return f"#!/bin/bash\n{lines}\n{_body(stage)}"


def _body(stage: Stage) -> str:
    """Runs the task; requeues it if it was stopped, but not if it was cancelled.

    A signal before its time is up reaches the shell alone, which passes it on; SIGTERM, of
    scancel and of preemption, reaches all. The second `wait` is for the signal that ends the
    first, the third gives the exit code even if the task ended between the two: bash remembers
    it. The ID of the last task's job is that of the array, so tasks are named by their index.
    """
    deaf = 128 + signal.SIGUSR1  # it did not yet listen
    task = f'{shlex.join(stage.command)} --shard "$SLURM_ARRAY_TASK_ID/{stage.tasks}"'
    return f"""
cancelled=
trap 'kill -USR1 "$task"' USR1
trap 'cancelled=yes' TERM
{task} &
task=$!
wait "$task"
while kill -0 "$task" 2> /dev/null; do wait "$task"; done
wait "$task"
code=$?
if [ -z "$cancelled" ] && {{ [ "$code" = {STOPPED} ] || [ "$code" = {deaf} ]; }}; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""
