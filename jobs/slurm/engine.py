"""Submits stages to Slurm, and leaves them to it."""

import shutil
import subprocess
from collections.abc import Callable, Sequence

from jobs.engines import Stage
from jobs.errors import JobError
from jobs.slurm.program import Submission, program


class SlurmEngine:
    """Array jobs, each after the one before; Slurm requeues the tasks that were stopped."""

    def __init__(self, submission: Submission, tell: Callable[[str], object]) -> None:
        """Submit nothing yet.

        Args:
            tell: is given name and job ID of each stage.
        """
        self._submission = submission
        self._tell = tell

    def run(self, stages: Sequence[Stage]) -> int:
        """Submit all; 0, for how they end is Slurm's to say.

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
            input=program(stages, self._submission),
            capture_output=True,
            text=True,
            errors="surrogateescape",  # names of folders need not be UTF-8
            check=False,
        )
        for line in done.stdout.splitlines():
            self._tell(line)
        if done.returncode:
            raise JobError(
                f"sbatch refused with exit code {done.returncode}: {done.stderr.strip()}"
            )
        return 0
