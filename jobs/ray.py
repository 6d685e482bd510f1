"""Stages as tasks on a Ray cluster: the one at hand, or one of this machine alone.

Ray is imported when the engine runs. Every node needs this package in the same environment, at
the same path, and the same folders.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from jobs.errors import JobError
from jobs.shards import Stage
from jobs.stopping import STOPPED, Stop, stop_on_signals

RETRIES = 3
"""How often Ray itself runs a task again at once, when it lost the process or the node."""

_LOOK_EVERY_S = 0.5
_CANCELLED_WITHIN_S = 30.0
_DONE, _PARTIAL = 0, 3

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], object]]]
"""Of what, how many and of which unit; gives a function that is told how many more are done."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A task's command line that has ended."""

    stage: str
    command: tuple[str, ...]
    code: int
    out: str
    errors: str

    @property
    def is_over(self) -> bool:
        """Whether it is not to be run again: it was neither stopped nor killed by a signal."""
        return self.code >= 0 and self.code != STOPPED


@dataclass(frozen=True)
class RayEngine:
    """Tasks of a stage side by side, as many as the cluster has cores and GPUs for.

    `report` is given each task that has ended. One that was stopped is run again after a while, for
    a run whose node died holds its shard against other hosts for `jobs.runs.FOREIGN_DEAD_AFTER_S`.
    """

    progress: Progress
    report: Callable[[Ended], object]
    tries: int = 40
    again_after_s: float = 30.0

    def run(self, stages: Sequence[Stage]) -> int:
        """Run all; 75 if a signal stopped it or a task was stopped again and again.

        Raises:
            JobError: there is no Ray, or no cluster where RAY_ADDRESS says, or it lacks what is
                needed to run a command line.
        """
        worst = _DONE
        # Ray prints the deaths of nodes on stdout (2.60).
        with redirect_stdout(sys.stderr), _connected() as ray, stop_on_signals() as stop:
            for stage in stages:
                code = self._run_stage(ray, stage, stop)
                if code not in (_DONE, _PARTIAL):
                    return code
                worst = max(worst, code)
        return worst

    def _run_stage(self, ray: Any, stage: Stage, stop: Stop) -> int:
        """The most serious exit code of the stage's tasks."""
        left = [stage.task(index) for index in range(stage.tasks)]
        codes: set[int] = set()
        with self.progress(_title(ray, stage), stage.tasks, "tasks") as done:
            for _ in range(self.tries):
                over = {
                    task.command: task.code
                    for task in self._run_once(ray, stage, left, stop, done)
                    if task.is_over
                }
                codes |= set(over.values())
                left = [command for command in left if command not in over]
                if not left or stop.is_asked:
                    break
                until = time.monotonic() + self.again_after_s
                while time.monotonic() < until and not stop.is_asked:
                    time.sleep(_LOOK_EVERY_S)
        serious = codes - {_DONE, _PARTIAL}
        if serious:
            return max(serious)
        return STOPPED if left else max(codes)

    def _run_once(
        self,
        ray: Any,
        stage: Stage,
        commands: Sequence[tuple[str, ...]],
        stop: Stop,
        done: Callable[[int], object],
    ) -> list[Ended]:
        """Run each command; those that a signal stopped are missing in what comes back."""
        task = ray.remote(run_command).options(
            name=stage.name, num_cpus=stage.cpus, num_gpus=stage.gpus, max_retries=RETRIES
        )
        running = {task.remote(stage.name, command): command for command in commands}
        ended: list[Ended] = []
        while running and not stop.is_asked:
            ready, _ = ray.wait(list(running), timeout=_LOOK_EVERY_S)
            for one in ready:
                ended.append(_result(ray, one, stage.name, running.pop(one)))
                self.report(ended[-1])
                done(ended[-1].is_over)
        for reference in running:
            ray.cancel(reference, force=False)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_CANCELLED_WITHIN_S)
        return ended


def _title(ray: Any, stage: Stage) -> str:
    """The stage's name, and what it waits for if no node has it: clusters may grow."""
    needs = {"CPU": stage.cpus, "GPU": stage.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= count for kind, count in needs.items()) for node in nodes):
        return stage.name
    wanted = " and ".join(f"{count} {kind}" for kind, count in needs.items() if count)
    return f"{stage.name} (waits for a node with {wanted}; --device cpu asks for no GPU)"


def run_command(stage: str, command: tuple[str, ...]) -> Ended:
    """Run a command line in a Ray worker; it is asked to stop when the worker ends.

    A signal, and not a wait in the worker, because Ray kills workers with SIGKILL.
    """
    with subprocess.Popen(
        ("setpriv", "--pdeathsig", "TERM", "--", *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    ) as process:
        try:
            out, errors = process.communicate()
        except KeyboardInterrupt:  # what ray.cancel raises here
            process.terminate()
            process.communicate()
            raise
    return Ended(stage=stage, command=command, code=process.returncode, out=out, errors=errors)


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS, a running one of this machine, or a new one."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise JobError("Ray is not installed: pip install 'ray>=2.60,<3'") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours tells nobody of us
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    except ConnectionError as error:
        raise JobError(
            f"no Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: {error}; start it "
            "with ray start, or unset RAY_ADDRESS to run on this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _result(ray: Any, reference: Any, stage: str, command: tuple[str, ...]) -> Ended:
    try:
        ended: Ended = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise JobError(
            f"{stage}: a node of the Ray cluster cannot run {shlex.join(command)}: {error}; every "
            "node needs setpriv (util-linux), and this package at the same path"
        ) from error
    except ray.exceptions.RayError as error:  # its node or process was lost too often
        said = f"warning: {error}\n"
        return Ended(stage=stage, command=command, code=STOPPED, out="", errors=said)
    return ended
