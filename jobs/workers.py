"""Processes that work on one task at a time and may die of it. Knows no tasks.

A worker that is killed by the kernel, crashes in a library or hangs costs its task, which is known,
and is replaced. A worker never outlives the process that started it.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from pickle import dumps, loads
from typing import Any, Self

from jobs.errors import JobError
from jobs.stopping import SIGNALS

Handler = Callable[[Any], Any]
"""Does one task and returns what came of it."""
Progress = Callable[[], object]
"""To be called whenever a task made progress, at any rate; a timer would prove nothing."""
MakeHandler = Callable[[Progress], Handler]
"""Called once in the worker, so that what is expensive (a model) is loaded once; is pickled."""

_ENDS_WITHIN_S = 5.0
_CONTEXT = multiprocessing.get_context("spawn")
"""Not forked from the parent: its threads of Arrow or OpenCV would leave their locks held."""
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How threads wait: OpenMP's own word, and those of GNU's and Intel's libraries of it."""
_STARTING = threading.Lock()
"""The environment is the whole process's: two threads that start workers must not mix theirs."""


def usable_cores() -> int:
    """Cores that this process may use; macOS does not say, so there it is all of them.

    A container may be given the time of a few cores on all of them; then it is as many as that.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    there = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota_us, period_us = map(int, _CPU_QUOTA.read_text().split())
        return max(1, min(there, -(-quota_us // period_us)))
    return there  # no cgroup 2, or its quota is "max"


def tame_threads() -> None:
    """Before torch is imported: let OpenMP have as many threads as cores, asleep while they wait.

    Threads that spin take the cores from whoever has work, and the whole waits for those. What the
    person set stays as it is.

    Source: 20 layers of 256 x 256 on two cores beside other work (11 processes that want to run),
    steps a second: 3 spinning, 43 asleep, 44 on one thread.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ[_WAITING[0]] = "PASSIVE"
    if usable_cores() < (os.cpu_count() or 1):  # else torch takes one a physical core by itself
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A task and what the handler returned."""

    task: Any
    value: Any


@dataclass(frozen=True, kw_only=True)
class Raised:
    """A task and the error that the handler raised."""

    task: Any
    error: Exception


@dataclass(frozen=True, kw_only=True)
class Died:
    """A task in the middle of which the worker ended; `signal` is None if it left by itself."""

    task: Any
    signal: signal.Signals | None


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A task of which nothing came for so long that the worker was killed."""

    task: Any
    silent_s: float


Failure = Raised | Died | Stuck
Result = Finished | Failure


class Worker:
    """One process; started with its first task, and anew after it died.

    - environment: set in the process before it imports anything, as OMP_NUM_THREADS.
    - patience_s: a task that makes no progress for so long is stuck; None: it never is.
    """

    def __init__(
        self,
        make_handler: MakeHandler,
        environment: Mapping[str, str],
        patience_s: float | None = None,
    ) -> None:
        self._make_handler = make_handler
        self._environment = environment
        self._patience_s = patience_s
        self._silent_s = 0.0
        self._seen = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection
        """Readable when the task has ended, however; only while there is a process."""
        self.task: Any = None
        """What it works on; None: it is free."""

    def submit(self, task: Any) -> None:
        if self._process is None or not self._process.is_alive():
            self.end(at_once=True)
            self._start()
        self.task = task
        self._silent_s = 0.0
        with suppress(ConnectionError):  # it died this moment; `collect` reports it
            self.connection.send(task)

    def collect(self) -> Result:
        """Wait for what came of the task."""
        task = self.task
        try:
            value, error = self.connection.recv()
        except (EOFError, OSError):  # the latter if it died while it answered
            return Died(task=task, signal=self._reap())
        self.task = None
        return Finished(task=task, value=value) if error is None else Raised(task=task, error=error)

    def watch(self, waited_s: float) -> Stuck | None:
        """Note that so much time went by without a result; kills the process if it is stuck.

        Only time that was spent waiting counts, so that no task is taken for stuck because the
        machine or the whole run was suspended. Until its handler is made, a worker is not watched.
        """
        beats = self._beats.value
        self._silent_s = self._silent_s + waited_s if 0 < beats == self._seen else 0.0
        self._seen = beats
        if self._patience_s is None or self._silent_s < self._patience_s:
            return None
        stuck = Stuck(task=self.task, silent_s=self._silent_s)
        self.end(at_once=True)
        return stuck

    def end(self, *, at_once: bool = False) -> None:
        """Let the process leave; `at_once` kills it, busy or not."""
        if self._process is None:
            return
        if at_once:
            self._process.kill()
        self.connection.close()
        self._process.join(_ENDS_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = self.task = None

    def _start(self) -> None:
        resource_tracker.ensure_running()  # else starting it unblocks signals (CPython 3.11)
        self.connection, theirs = _CONTEXT.Pipe()
        try:
            self._beats = _CONTEXT.RawValue("Q", 0)
        except OSError as error:
            raise JobError(
                f"/dev/shm: processes cannot share memory there ({error.strerror}); "
                "mount it so that it can be written"
            ) from error
        self._seen = 0
        args = (theirs, self._make_handler, self._beats)
        self._process = _CONTEXT.Process(target=_serve, args=args)
        with _STARTING, _environment(self._environment):
            # A child keeps them blocked: Ctrl-C reaches a whole terminal, but the parent decides.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def _reap(self) -> signal.Signals | None:
        """Wait for the end of a process that closed its pipe; which signal ended it."""
        code = None
        if self._process is not None:
            self._process.join()
            code = self._process.exitcode
        self.end()
        return signal.Signals(-code) if code is not None and code < 0 else None


class Pool:
    """Workers that can stand in for each other; a context manager that ends them.

    Left by an error or with tasks under way, it kills them.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = tuple(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        at_once = kind is not None or bool(self.tasks)
        for worker in self.workers:
            worker.end(at_once=at_once)

    @property
    def tasks(self) -> list[Any]:
        return [worker.task for worker in self.workers if worker.task is not None]

    @property
    def is_free(self) -> bool:
        return len(self.tasks) < len(self.workers)

    def submit(self, task: Any) -> None:
        next(worker for worker in self.workers if worker.task is None).submit(task)


def collect(pools: Sequence[Pool], timeout_s: float) -> list[tuple[Worker, Result]]:
    """Wait until some task of some pool has ended; empty when the time is over first.

    Workers that are stuck are found by calling this again and again.
    """
    workers = [worker for pool in pools for worker in pool.workers if worker.task is not None]
    busy = {worker.connection.fileno(): worker for worker in workers}
    began_s = time.monotonic()
    ready = wait(list(busy), timeout_s)
    waited_s = min(time.monotonic() - began_s, timeout_s)
    results = (
        (worker, worker.collect() if pipe in ready else worker.watch(waited_s))
        for pipe, worker in busy.items()
    )
    return [(worker, result) for worker, result in results if result is not None]


def _serve(pipe: Connection, make_handler: MakeHandler, beats: Any) -> None:
    def progress() -> None:
        beats.value += 1

    threading.Thread(target=_end_with_parent, daemon=True).start()
    handler: Handler | None = None
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            handler = make_handler(progress) if handler is None else handler
            progress()
            value, error = handler(task), None
        except Exception as raised:  # the boundary of one item: it is told, the others go on
            value, error = None, _portable(raised)
        pipe.send((value, error))


def _portable(error: Exception) -> Exception:
    """The error, or its text if it cannot cross to another process."""
    try:
        loads(dumps(error))
    except Exception:  # whatever its constructor says to the arguments that were kept
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
