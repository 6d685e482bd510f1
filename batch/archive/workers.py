"""The processes of a run: what they do, how long they may be silent, why they failed.

Light to import: a handler imports what it needs where it is opened, in its own process.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from batch.archive.identity import ModelFacts
from batch.archive.inventory import FileRow
from batch.archive.request import Phase, Request
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Analyze, Describe, Load, Prefill, Probe, Staged
from batch.errors import BatchError, ContextError, ModelError, Reason, VideoError
from cachefmt import CacheFileError
from jobs.stopping import Stop
from jobs.workers import (
    Died,
    Failure,
    Finished,
    Handler,
    MakeHandler,
    Pool,
    Progress,
    Raised,
    Stuck,
    Worker,
    collect,
)

_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Of workers: as many as there are cores must not each start as many threads, nor draw bars."""

STUCK_VIDEO_S = 600.0
"""A process that for so long decodes no frame and reads nothing new of its video is stuck."""
STUCK_MODEL_S = 3600.0
"""A process that for so long prefills no block, or does not get its model loaded, is stuck: on
slow processors a block of a large model takes many minutes."""


def make_describe_handler(progress: Progress) -> Callable[[Describe], ModelFacts]:
    """A handler that looks at the model of an index."""
    from batch.archive.describing import describe

    return describe


def make_video_handler(progress: Progress) -> Callable[[Probe | Analyze], FileRow | Staged | None]:
    """A handler that opens videos, on one core."""
    import cv2

    from batch.archive.analyzing import analyze
    from batch.archive.discovery import probe_file

    # OpenCV 5.0 has threads of its own, which OMP_NUM_THREADS does not reach.
    cv2.setNumThreads(1)

    def handle(task: Probe | Analyze) -> FileRow | Staged | None:
        if isinstance(task, Probe):
            return probe_file(task.row, progress)
        return analyze(task, progress)

    return handle


def make_model_handler(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """A handler with the model of an index on one device.

    Args:
        threads: of the processor; always as many for the same machine and options, because
            sums depend on how they are divided.
    """
    from batch.archive.prefilling import Prefiller

    prefiller = Prefiller(settings, device=device, threads=threads)

    def handle(task: Load | Prefill) -> Staged | None:
        if isinstance(task, Prefill):
            return prefiller.prefill(task, progress)
        prefiller.load()
        return None

    return handle


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the processes of a run are made of, and when they are given up.

    - video, model: make the handlers; a model's are told settings, device and threads first.
    - stuck_video_s, stuck_model_s: of silence, after which a process is killed.
    - failures_in_a_row: that so many videos end so on one device is not their fault.
    """

    video: MakeHandler = make_video_handler
    model: Callable[[IndexSettings, str | None, int, Progress], Handler] = make_model_handler
    stuck_video_s: float = STUCK_VIDEO_S
    stuck_model_s: float = STUCK_MODEL_S
    failures_in_a_row: int = 10

    def video_pool(self, request: Request) -> Pool:
        count = request.jobs if request.phase is not Phase.PREFILL else 0
        return Pool([Worker(self.video, _ENVIRONMENT, self.stuck_video_s) for _ in range(count)])

    def model_pool(self, request: Request) -> Pool:
        devices = request.devices if request.phase.prefills else ()
        handlers = [
            partial(self.model, request.settings, device, request.threads) for device in devices
        ]
        return Pool([Worker(handler, _ENVIRONMENT, self.stuck_model_s) for handler in handlers])


def ask_model(request: Request, stop: Stop) -> ModelFacts | None:
    """The model's facts, from a process that ends again, for torch is large; None: stopped.

    Raises:
        ModelError: the model cannot be used.
    """
    settings, weights = request.settings, request.phase.prefills
    with Pool([Worker(make_describe_handler, _ENVIRONMENT)]) as pool:
        pool.submit(Describe(settings=settings, device=request.devices[0], weights=weights))
        while not stop.is_asked:
            for _, result in collect([pool], 0.1):
                if isinstance(result, Finished):
                    facts: ModelFacts = result.value
                    return facts
                if isinstance(result, Raised):
                    raise result.error
                raise ModelError(f"{settings.model}: cannot be opened: {reason_of(result)[1]}")
    return None


def reason_of(result: Failure) -> tuple[Reason, str]:
    """Why a task's video failed, by the closed list of reasons, and a message for people."""
    if isinstance(result, Stuck):
        how = f"its process made no progress for {result.silent_s:,.0f} s and was killed"
        return Reason.WORKER_STUCK, f"{how}; a decoder, a disk or a device hangs"
    if isinstance(result, Died):
        if result.signal is signal.SIGKILL:
            return Reason.WORKER_KILLED, "its process was killed, as the kernel does without memory"
        how = "left by itself" if result.signal is None else f"was ended by {result.signal.name}"
        return Reason.WORKER_CRASHED, f"its process {how}, as by a fault in a decoder"
    error = result.error
    if isinstance(error, VideoError):
        return error.reason, str(error)
    if isinstance(error, ContextError):
        return Reason.TOO_LONG, str(error)
    if isinstance(error, MemoryError):
        return Reason.OUT_OF_MEMORY, str(error)
    if isinstance(error, BatchError | CacheFileError):
        return Reason.UNEXPECTED, str(error)
    return Reason.UNEXPECTED, f"{type(error).__name__}: {error}"
