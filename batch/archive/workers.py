"""The processes of a run: how they do their tasks, and how long they may be silent.

Light to import: torch and OpenCV are imported where a handler is made, in its own process.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from batch.archive.discovery import is_unchanged, probe_file
from batch.archive.identity import IndexSettings, ModelFacts
from batch.archive.inventory import FileRow
from batch.archive.request import Phase, Request
from batch.archive.tasks import Analyze, Calibrate, Describe, Load, Prefill, Probe, Staged
from batch.errors import ModelError, VideoError
from batch.making.failures import reason_of
from batch.making.manifests import ONE_THREAD, STUCK_S, keep_opencv_to_one_thread, write_manifest
from jobs.stopping import Stop
from jobs.workers import Finished, Handler, MakeHandler, Pool, Progress, Raised, Worker, collect

_ENVIRONMENT = {**ONE_THREAD, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
STUCK_MODEL_S = 3600.0
"""A process that for so long prefills no block, or does not get its model loaded, is stuck: on
slow processors a block of a large model takes many minutes."""


def _make_describe_handler(progress: Progress) -> Callable[[Describe], ModelFacts]:
    from batch.archive.prefilling import describe

    return describe


def make_video_handler(progress: Progress) -> Callable[[Probe | Analyze], FileRow | Staged | None]:
    """A handler that opens videos, on one core."""
    keep_opencv_to_one_thread()

    def handle(task: Probe | Analyze) -> FileRow | Staged | None:
        if isinstance(task, Probe):
            return probe_file(task.row, progress)
        return _analyze(task, progress)

    return handle


def _analyze(task: Analyze, progress: Progress) -> Staged | None:
    """Write a manifest to a temporary place; None if the file is not the one looked at."""
    began_s = time.monotonic()
    try:
        manifest = write_manifest(
            task.row.info,
            task.staged,
            task.rule,
            task.settings,
            room=task.allowance,
            progress=progress,
        )
    except VideoError:
        if is_unchanged(task.row):
            raise
        return None
    if not is_unchanged(task.row):
        task.staged.unlink()
        return None
    facts = {
        "samples": len(manifest.frame),
        "stored_samples": int(manifest.kept.sum()),
        "decoded_s": manifest.header.decoded_s,
        "manifest_bytes": task.staged.stat().st_size,
        "analyze_seconds": manifest.analyze_seconds,
        "warning": manifest.header.warning,
    }
    return Staged(facts=facts, began_s=began_s, ended_s=time.monotonic())


def make_model_handler(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """A handler with the model of an index on one device.

    Threads are always as many for the same machine and options: how sums are divided changes them.
    """
    import torch

    from batch.archive.prefilling import calibrate, prefill
    from batch.making.maker import CacheMaker

    torch.set_num_threads(threads)
    maker = CacheMaker(replace(settings.model, device=device), settings.cache)

    def handle(task: Load | Calibrate | Prefill) -> Staged | None:
        if isinstance(task, Prefill):
            return prefill(maker, task, progress)
        maker.load()
        if isinstance(task, Calibrate):
            calibrate(maker, task, progress)
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
    stuck_video_s: float = STUCK_S
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
    """The model's facts, from a process that ends again, for torch is large; None: stopped."""
    settings, weights = request.settings, request.phase.prefills
    with Pool([Worker(_make_describe_handler, _ENVIRONMENT)]) as pool:
        pool.submit(Describe(settings=settings, device=request.devices[0], weights=weights))
        while not stop.is_asked:
            for _, result in collect([pool], 0.1):
                if isinstance(result, Finished):
                    facts: ModelFacts = result.value
                    return facts
                if isinstance(result, Raised):
                    raise result.error
                raise ModelError(f"{settings.model.name}: cannot be opened: {reason_of(result)[1]}")
    return None
