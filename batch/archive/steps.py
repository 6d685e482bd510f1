"""The three kinds of task: where the next one comes from, and what follows from its result."""

import time
from collections import Counter

from batch.archive.backlog import Backlog
from batch.archive.file_queue import FileQueue
from batch.archive.inventory import FileRow, Inventory
from batch.archive.probing import failed_row
from batch.archive.recording import Recorder
from batch.archive.store import ProductFolder
from batch.archive.tasks import Analyze, Load, Prefill, Probe
from batch.archive.work import Work
from batch.errors import BatchError, ManifestError, ModelError, Reason
from batch.making.failures import reason_of
from jobs.errors import NoSpaceError
from jobs.workers import Failure, Finished, Raised, Result, Worker

IN_A_ROW = 10
"""So many videos that end like this are not themselves to blame."""

_NOT_TO_BLAME = (
    Reason.UNEXPECTED,
    Reason.WORKER_CRASHED,
    Reason.WORKER_KILLED,
    Reason.WORKER_STUCK,
)


class ProbeStep:
    """Files to be opened; what they are goes to the inventory."""

    def __init__(
        self, queue: FileQueue, inventory: Inventory, backlog: Backlog, recorder: Recorder
    ) -> None:
        self._queue = queue
        self._inventory = inventory
        self._backlog = backlog
        self._recorder = recorder
        self._probed: set[str] = set()
        self.admit()

    def next(self) -> Probe | None:
        """The next task, if there is one now."""
        return Probe(row=self._queue.next_to_probe()) if self._queue.unprobed else None

    def ended(self, result: Result) -> None:
        """Note what a file is, and let those go on whose turn it is."""
        if isinstance(result, Finished):
            row = result.value
        else:
            row = failed_row(result.task.row, *reason_of(result))
        self._inventory.note(row)
        self._recorder.tally.probed += 1
        self._probed.add(row.path)
        self._queue.put_probed(row)
        self.admit()

    def admit(self) -> None:
        """Pass on, in order of path, what is known."""
        for row in self._queue.take():
            if row.kind == "video":
                self._backlog.admit(row)
            elif row.path in self._probed:
                self._recorder.count_failed(row.path, *_failure(row))
            else:
                self._recorder.tally.failed_before[_failure(row)[0]] += 1


class AnalyzeStep:
    """Videos to be analysed; they go on to be prefilled, if this run does that."""

    def __init__(
        self,
        work: Work,
        manifests: ProductFolder,
        backlog: Backlog,
        recorder: Recorder,
    ) -> None:
        self._work = work
        self._manifests = manifests
        self._backlog = backlog
        self._recorder = recorder

    def next(self) -> Analyze | None:
        """The next task, if there is one now."""
        if not self._backlog.to_analyze:
            return None
        row = self._backlog.to_analyze.popleft()
        return Analyze(
            row=row,
            rule=self._work.rule,
            settings=self._work.analysis,
            staged=self._recorder.staging / f"{row.video}.parquet",
            allowance=self._recorder.space.allowance(),
        )

    def ended(self, result: Result) -> None:
        """Keep the manifest, or record why there is none.

        Raises:
            NoSpaceError: it has no room.
        """
        row, tally = result.task.row, self._recorder.tally
        if isinstance(result, Raised) and isinstance(result.error, NoSpaceError):
            raise result.error
        if not isinstance(result, Finished):
            self._recorder.fail(self._manifests, row, *reason_of(result))
        elif result.value is None:
            tally.given_up += 1
            self._recorder.listener.warned(
                f"{row.path}: it changed since; the next run looks again"
            )
        else:
            facts, staged = result.value.facts, result.task.staged
            tally.seconds["analyze"] += result.value.ended_s - result.value.began_s
            record = self._recorder.commit(self._manifests, row, staged, facts)
            if facts["warning"] is not None:
                self._recorder.listener.warned(f"{row.path}: {facts['warning']}")
            if not self._backlog.pass_on(row):
                self._recorder.finish(self._manifests, row, record)


class PrefillStep:
    """Videos to be prefilled."""

    def __init__(
        self, manifests: ProductFolder, caches: ProductFolder, backlog: Backlog, recorder: Recorder
    ) -> None:
        self._manifests = manifests
        self._caches = caches
        self._backlog = backlog
        self._recorder = recorder
        self._free_since: dict[Worker, float] = {}
        self._in_a_row: Counter[Worker] = Counter()
        """One device may be broken and the others not."""

    def next(self) -> Prefill | None:
        """The next task, if there is one now."""
        if not self._backlog.to_prefill:
            return None
        row, ready_s = self._backlog.to_prefill.popleft()
        return Prefill(
            row=row,
            ready_s=ready_s,
            manifest=self._manifests.product(row.video),
            staged=self._recorder.staging / f"{row.video}.safetensors",
            target=self._caches.file_of(row.video),
            segments=self._caches.folder_of(row.video),
            allowance=self._recorder.space.allowance(),
        )

    def ended(self, worker: Worker, result: Result) -> None:
        """Keep the cache, or record why there is none.

        Raises:
            NoSpaceError: it has no room.
            BatchError: not the video is to blame, but the model or the device.
        """
        if isinstance(result, Raised) and isinstance(result.error, NoSpaceError | ModelError):
            raise result.error
        if isinstance(result.task, Load):
            self._loaded(worker, result)
        elif isinstance(result, Finished):
            self._keep(worker, result)
        else:
            self._free_since.pop(worker, None)
            if isinstance(result, Raised) and isinstance(result.error, ManifestError):
                self._analyze_again(worker, result)
            else:
                self._refuse(worker, result)

    def _loaded(self, worker: Worker, result: Result) -> None:
        if not isinstance(result, Finished):
            raise ModelError(f"the model cannot be loaded: {reason_of(result)[1]}")
        self._free_since[worker] = time.monotonic()

    def _keep(self, worker: Worker, result: Finished) -> None:
        task, value, tally = result.task, result.value, self._recorder.tally
        free_since = self._free_since.get(worker, value.began_s)
        tally.idle_seconds += max(0.0, value.began_s - max(free_since, task.ready_s))
        tally.seconds["prefill"] += value.ended_s - value.began_s
        self._free_since[worker] = value.ended_s
        self._in_a_row[worker] = 0
        analyzed = self._manifests.ledger.read_done(task.row.video)
        facts = {**analyzed, **value.facts}
        if task.staged.exists():
            record = self._recorder.commit(self._caches, task.row, task.staged, facts)
        else:
            size_bytes = facts["cache_bytes"]
            record = self._recorder.commit_folder(self._caches, task.row, facts, size_bytes)
        self._recorder.finish(self._caches, task.row, record)

    def _analyze_again(self, worker: Worker, result: Raised) -> None:
        """Have a damaged manifest made anew: once by this run, else by the next that analyses."""
        row = result.task.row
        if not self._backlog.analyze_again(row):
            self._manifests.product(row.video).unlink(missing_ok=True)
            reason, message = reason_of(result)
            self._recorder.give_up(row, reason, f"{message}; it is removed, to be made again")
            self._count_in_a_row(worker, message)

    def _refuse(self, worker: Worker, result: Failure) -> None:
        reason, message = reason_of(result)
        self._recorder.fail(self._caches, result.task.row, reason, message)
        if reason not in _NOT_TO_BLAME:
            self._in_a_row[worker] = 0
            return
        worker.end(at_once=True)  # after an error of CUDA all that follows in a process fails
        self._count_in_a_row(worker, message)

    def _count_in_a_row(self, worker: Worker, message: str) -> None:
        self._in_a_row[worker] += 1
        if self._in_a_row[worker] == IN_A_ROW:
            raise BatchError(
                f"{IN_A_ROW} videos in a row failed in prefill, the last: {message}. Look at the "
                "device and the model; --retry-failed takes these videos again"
            )


def _failure(row: FileRow) -> tuple[Reason, str]:
    return row.reason or Reason.UNEXPECTED, row.message or ""
