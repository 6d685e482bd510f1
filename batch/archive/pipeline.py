"""Keeps all workers busy: files are looked at and analysed while the model prefills.

One process, no threads: it hands out tasks and lets follow what follows. Workers write to the
run's own folder only, so dropping what is under way leaves nothing where others look.
"""

from collections.abc import Callable

from batch.archive.backlog import Backlog
from batch.archive.steps import AnalyzeStep, PrefillStep, ProbeStep
from batch.archive.tasks import Analyze, Load, Probe
from jobs.errors import NoSpaceError
from jobs.stopping import Stop
from jobs.workers import Finished, Pool, Result, Worker, collect

GRACE_S = 15.0
"""What is under way may take so long to finish after a request to stop; then it is dropped.
Slurm and Kubernetes kill 30 seconds after they asked."""

AHEAD = 16
"""Manifests that may wait for the model; more would only be written to lie there."""

_TICK_S = 0.5


class Pipeline:
    """One run's work, from files to caches."""

    def __init__(
        self,
        *,
        backlog: Backlog,
        probe: ProbeStep,
        analyze: AnalyzeStep | None,
        prefill: PrefillStep | None,
        videos: Pool,
        models: Pool,
        tick: Callable[[], None],
    ) -> None:
        """Begin; a step that is None is not this run's.

        Args:
            videos: probes and analyses.
            models: prefills.
            tick: called twice a second and after each result.
        """
        self._backlog = backlog
        self._probe = probe
        self._analyze = analyze
        self._prefill = prefill
        self._videos = videos
        self._models = models
        self._tick = tick
        self._no_space: NoSpaceError | None = None
        self._is_loading = False

    def run(self, stop: Stop) -> None:
        """Work until all is done, or until the request to stop.

        Raises:
            NoSpaceError: disk or quota are full; what was under way is finished if it had room.
            BatchError: not a video is to blame, but the model or the device.
        """
        while True:
            self._feed(stop)
            if self._is_over(stop):
                break
            if stop.at_once or stop.waited_s > GRACE_S:
                break
            results = collect([self._videos, self._models], _TICK_S)
            finished = [ended for ended in results if isinstance(ended[1], Finished)]
            for worker, result in results:
                if not isinstance(result, Finished):  # it may end the worker: before a new task
                    self._follow(worker, result)
            self._feed(stop)  # before files are named and synced, so that nobody waits for a disk
            for worker, result in finished:
                self._follow(worker, result)
            self._tick()
        if self._no_space is not None:
            raise self._no_space

    def _is_over(self, stop: Stop) -> bool:
        """Whether nothing is under way, or only models are loaded that nobody needs any more."""
        tasks = [*self._videos.tasks, *self._models.tasks]
        is_loading_only = all(isinstance(task, Load) for task in tasks)
        return is_loading_only and (self._is_ending(stop) or not self._backlog.to_prefill)

    def _is_ending(self, stop: Stop) -> bool:
        return stop.is_asked or self._no_space is not None

    def _feed(self, stop: Stop) -> None:
        if self._is_ending(stop):
            return
        if self._prefill is not None and (self._backlog.to_analyze or self._backlog.to_prefill):
            self._feed_models(self._prefill)
        while self._videos.is_free:
            task = self._next_for_processor()
            if task is None:
                return
            self._videos.submit(task)

    def _feed_models(self, prefill: PrefillStep) -> None:
        if not self._is_loading:
            self._is_loading = True
            for worker in self._models.workers:
                worker.submit(Load())
        while self._models.is_free and (task := prefill.next()) is not None:
            self._models.submit(task)

    def _next_for_processor(self) -> Analyze | Probe | None:
        """Analysis first, for the model waits for it; probing when enough is ahead."""
        if self._analyze is not None and len(self._backlog.to_prefill) < AHEAD:
            analysis = self._analyze.next()
            if analysis is not None:
                return analysis
        return self._probe.next()

    def _follow(self, worker: Worker, result: Result) -> None:
        try:
            if isinstance(result.task, Probe):
                self._probe.ended(result)
            elif isinstance(result.task, Analyze) and self._analyze is not None:
                self._analyze.ended(result)
            elif self._prefill is not None:
                self._prefill.ended(worker, result)
        except NoSpaceError as error:
            self._no_space = error
