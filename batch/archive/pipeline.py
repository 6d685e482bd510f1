"""Keeps all workers busy: files are looked at and analysed while the model prefills.

One process, no threads: it hands out tasks and lets follow what follows. Workers write to the
run's own folder only, so dropping what is under way leaves nothing where others look.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batch.archive.backlog import FIRST, Backlog
from batch.archive.calibrating import CalibrateStep
from batch.archive.discovery import Scan, failed_row
from batch.archive.identity import Products
from batch.archive.inventory import FileRow, Inventory
from batch.archive.recording import Recorder
from batch.archive.store import ProductFolder
from batch.archive.tasks import Analyze, Calibrate, Load, Prefill, Probe
from batch.errors import BatchError, ManifestError, ModelError, Reason
from batch.making.failures import reason_of
from jobs.errors import NoSpaceError
from jobs.stopping import Stop
from jobs.workers import Failure, Finished, Pool, Raised, Result, Worker, collect

GRACE_S = 15.0
"""What is under way may take so long to finish after a request to stop; then it is dropped.
Slurm and Kubernetes kill 30 seconds after they asked."""

AHEAD = FIRST
"""Manifests that may wait for the model; more would only be written to lie there."""

_TICK_S = 0.5

_NOT_TO_BLAME = (
    Reason.UNEXPECTED,
    Reason.WORKER_CRASHED,
    Reason.WORKER_KILLED,
    Reason.WORKER_STUCK,
)
"""That so many videos in a row end like this is the fault of a device or a model."""


class ProbeStep:
    """Files to be opened; those that are videos go on in order of path, each content once.

    Files are probed in parallel and out of order, but taken in order, so that which of several
    copies gives a cache its name does not depend on what happened to be fast, or on a kill.
    """

    def __init__(
        self, scan: Scan, inventory: Inventory, backlog: Backlog, recorder: Recorder
    ) -> None:
        self._waiting = deque(scan.rows)
        self._unprobed = deque(row for row in scan.rows if row.path in scan.to_probe)
        self._to_probe = scan.to_probe
        self._probed: dict[str, FileRow] = {}
        self._videos: set[str] = set()
        self._inventory = inventory
        self._backlog = backlog
        self._recorder = recorder
        self._admit()

    @property
    def is_done(self) -> bool:
        """Whether all files are admitted."""
        return not self._waiting

    def next(self) -> Probe | None:
        return Probe(row=self._unprobed.popleft()) if self._unprobed else None

    def ended(self, result: Result) -> None:
        if isinstance(result, Finished):
            row = result.value
        else:
            row = failed_row(result.task.row, *reason_of(result))
        self._inventory.note(row)
        self._recorder.tally.probed += 1
        self._probed[row.path] = row
        self._admit()

    def _admit(self) -> None:
        """Pass on rows whose turn it is: the first file of each video, and failures."""
        while self._waiting:
            row = self._waiting[0]
            is_probed_now = row.path in self._to_probe
            if is_probed_now:
                if row.path not in self._probed:
                    return
                row = self._probed.pop(row.path)
            self._waiting.popleft()
            if row.kind == "video" and row.is_there and row.video not in self._videos:
                self._videos.add(row.video)
                self._backlog.admit(row)
            elif row.kind == "failed":
                reason = row.reason or Reason.UNEXPECTED
                if is_probed_now:
                    self._recorder.count_failed(row.path, reason, row.message or "")
                else:
                    self._recorder.tally.failed_before[reason] += 1


@dataclass
class AnalyzeStep:
    """Videos to be analysed; they go on to be prefilled, if this run does that."""

    products: Products
    backlog: Backlog
    recorder: Recorder

    def next(self) -> Analyze | None:
        if not self.backlog.to_analyze:
            return None
        row = self.backlog.to_analyze.popleft()
        return Analyze(
            row=row,
            rule=self.products.rule,
            settings=self.products.analysis,
            staged=self.recorder.staging / f"{row.video}.parquet",
            allowance=self.recorder.space.allowance(),
        )

    def ended(self, result: Result) -> None:
        row, tally = result.task.row, self.recorder.tally
        if not isinstance(result, Finished):
            self.recorder.fail(self.products.manifests, row, *reason_of(result))
        elif result.value is None:
            tally.given_up += 1
            self.recorder.listener.warned(f"{row.path}: it changed since; the next run looks again")
        else:
            facts, staged = result.value.facts, result.task.staged
            tally.analyzed += 1
            tally.seconds["analyze"] += result.value.ended_s - result.value.began_s
            record = self.recorder.commit(self.products.manifests, row, staged, facts)
            if facts["warning"] is not None:
                self.recorder.listener.warned(f"{row.path}: {facts['warning']}")
            if not self.backlog.pass_on(row):
                self.recorder.finish(self.products.manifests, row, record)


@dataclass
class PrefillStep:
    """Videos to be prefilled.

    `failures_in_a_row` is how many videos may end so on one device until it is at fault.
    """

    manifests: ProductFolder
    caches: ProductFolder
    calibrations: Path
    backlog: Backlog
    recorder: Recorder
    failures_in_a_row: int

    def __post_init__(self) -> None:
        self._free_since: dict[Worker, float] = {}
        self._in_a_row: Counter[Worker] = Counter()
        """One device may be broken and the others not."""

    def next(self) -> Prefill | None:
        if not self.backlog.to_prefill:
            return None
        row, ready_s = self.backlog.to_prefill.popleft()
        return Prefill(
            row=row,
            ready_s=ready_s,
            manifest=self.manifests.product(row.video),
            staged=self.recorder.staging / f"{row.video}.safetensors",
            target=self.caches.file_of(row.video),
            segments=self.caches.folder_of(row.video),
            calibrations=self.calibrations,
            allowance=self.recorder.space.allowance(),
        )

    def is_free_again(self, worker: Worker) -> None:
        """It did something else until now: that was no idle time."""
        self._free_since[worker] = time.monotonic()

    def ended(self, worker: Worker, result: Result) -> None:
        """Keep the cache, or record why there is none; an error is not the video's fault."""
        if isinstance(result, Finished) and isinstance(result.task, Load):
            self.is_free_again(worker)
        elif isinstance(result, Finished):
            self._keep(worker, result)
        elif isinstance(result.task, Load):
            raise ModelError(f"the model cannot be loaded: {reason_of(result)[1]}")
        else:
            self._free_since.pop(worker, None)
            if isinstance(result, Raised) and isinstance(result.error, ManifestError):
                self._analyze_again(worker, result)
            else:
                self._refuse(worker, result)

    def _keep(self, worker: Worker, result: Finished) -> None:
        task, value, tally = result.task, result.value, self.recorder.tally
        free_since = self._free_since.get(worker, value.began_s)
        tally.idle_seconds += max(0.0, value.began_s - max(free_since, task.ready_s))
        tally.seconds["prefill"] += value.ended_s - value.began_s
        self._free_since[worker] = value.ended_s
        self._in_a_row[worker] = 0
        analyzed = self.manifests.ledger.read_done(task.row.video)
        facts = {**analyzed, **value.facts}
        if facts.get("calibration") is not None:
            self.caches.note_calibration(facts["calibration"], self.recorder.staging)
        if task.staged.exists():
            record = self.recorder.commit(self.caches, task.row, task.staged, facts)
        else:
            record = self.recorder.commit_folder(self.caches, task.row, facts)
        self.recorder.finish(self.caches, task.row, record)

    def _analyze_again(self, worker: Worker, result: Raised) -> None:
        """Have a damaged manifest made anew: once by this run, else by the next that analyses."""
        row = result.task.row
        if not self.backlog.analyze_again(row):
            self.manifests.product(row.video).unlink(missing_ok=True)
            reason, message = reason_of(result)
            self.recorder.give_up(row, reason, f"{message}; it is removed, to be made again")
            self._count_in_a_row(worker, message)

    def _refuse(self, worker: Worker, result: Failure) -> None:
        reason, message = reason_of(result)
        self.recorder.fail(self.caches, result.task.row, reason, message)
        if reason not in _NOT_TO_BLAME:
            self._in_a_row[worker] = 0
            return
        worker.end(at_once=True)  # after an error of CUDA all that follows in a process fails
        self._count_in_a_row(worker, message)

    def _count_in_a_row(self, worker: Worker, message: str) -> None:
        self._in_a_row[worker] += 1
        if self._in_a_row[worker] == self.failures_in_a_row:
            raise BatchError(
                f"{self.failures_in_a_row} videos in a row failed in prefill, the last: {message}. "
                "Look at the device and the model; --retry-failed takes these videos again"
            )


@dataclass(kw_only=True)
class Pipeline:
    """One run's work, from files to caches; a step that is None is not this run's.

    `videos` probe and analyse, `models` prefill; `tick` is called twice a second at least, and told
    what is under way.
    """

    backlog: Backlog
    probe: ProbeStep
    analyze: AnalyzeStep | None
    calibrate: CalibrateStep | None
    prefill: PrefillStep | None
    videos: Pool
    models: Pool
    tick: Callable[[Sequence[str]], None]

    def __post_init__(self) -> None:
        self._no_space: NoSpaceError | None = None
        self._is_loading = False
        self._unfollowed: list[object] = []  # tasks that ended, of which no step knows yet

    def run(self, stop: Stop) -> None:
        """Work until all is done, or until the request to stop.

        Without room (NoSpaceError), what is under way is finished first, if it has some.
        """
        while True:
            self._feed(stop)
            if self._is_over(stop) or stop.at_once or stop.waited_s > GRACE_S:
                break
            results = collect([self.videos, self.models], _TICK_S)
            finished = [ended for ended in results if isinstance(ended[1], Finished)]
            for worker, result in results:
                if not isinstance(result, Finished):  # it may end the worker: before a new task
                    self._follow(worker, result)
            self._unfollowed = [result.task for _, result in finished]
            self._feed(stop)  # before files are named and synced, so that nobody waits for a disk
            self._unfollowed = []
            for worker, result in finished:
                self._follow(worker, result)
            self.tick([_in_words(task) for task in (*self.models.tasks, *self.videos.tasks)])
        if self._no_space is not None:
            raise self._no_space

    def _is_over(self, stop: Stop) -> bool:
        """Whether nothing is under way, or only models are loaded that nobody needs any more."""
        if not self._is_ending(stop) and self.backlog.to_prefill:
            return False
        return all(isinstance(task, Load) for task in (*self.videos.tasks, *self.models.tasks))

    def _is_ending(self, stop: Stop) -> bool:
        return stop.is_asked or self._no_space is not None

    def _feed(self, stop: Stop) -> None:
        if self._is_ending(stop):
            return
        if self.prefill is not None and (self.backlog.to_analyze or self.backlog.to_prefill):
            if not self._is_loading:
                self._is_loading = True
                for worker in self.models.workers:
                    worker.submit(Load())
            while self.models.is_free and (task := self._next_for_model()) is not None:
                self.models.submit(task)
        while self.videos.is_free and (work := self._next_for_processor()) is not None:
            self.videos.submit(work)

    def _next_for_model(self) -> Calibrate | Prefill | None:
        """Nothing is prefilled before it is settled whether there is a calibration."""
        if self.calibrate is not None and not self.calibrate.is_settled:
            tasks = (*self.videos.tasks, *self._unfollowed)
            under_way = [task.row for task in tasks if isinstance(task, Analyze)]
            analysing = {row.video for row in (*under_way, *self.backlog.to_analyze)}
            task = self.calibrate.next(analysing, comes_more=not self.probe.is_done)
            if task is not None or not self.calibrate.is_settled:
                return task
        return None if self.prefill is None else self.prefill.next()

    def _next_for_processor(self) -> Analyze | Probe | None:
        """Analysis first, for the model waits for it; probing when enough is ahead."""
        analysis = None
        if self.analyze is not None and len(self.backlog.to_prefill) < AHEAD:
            analysis = self.analyze.next()
        return analysis or self.probe.next()

    def _follow(self, worker: Worker, result: Result) -> None:
        try:
            if isinstance(result, Raised) and isinstance(result.error, NoSpaceError | ModelError):
                raise result.error  # no video is to blame
            if isinstance(result.task, Probe):
                self.probe.ended(result)
            elif isinstance(result.task, Analyze) and self.analyze is not None:
                self.analyze.ended(result)
            elif isinstance(result.task, Calibrate) and self.calibrate is not None:
                self.calibrate.ended(result)
                if self.prefill is not None:
                    self.prefill.is_free_again(worker)
            elif self.prefill is not None:
                self.prefill.ended(worker, result)
        except NoSpaceError as error:
            self._no_space = error


def _in_words(task: Probe | Analyze | Calibrate | Prefill | Load) -> str:
    """What a process is doing, and with which file."""
    if isinstance(task, Load):
        return "load the model"
    if isinstance(task, Calibrate):
        return "calibrate the model"
    name = Path(task.row.path).name
    return f"{type(task).__name__.lower()} {name}"
