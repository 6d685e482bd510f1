"""Handlers for workers of tests: one without a model, and some that fail as decoders, kernels
and memory do. Worker processes import this file.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from batch.analysis.manifest import Manifest
from batch.archive.identity import IndexSettings
from batch.archive.tasks import Analyze, Calibrate, Load, Prefill, Probe, Staged
from batch.archive.workers import make_model_handler, make_video_handler
from batch.errors import Reason, VideoError
from jobs.workers import Handler, Progress

VICTIM = "b.mkv"
"""Whatever works on a video of this name comes to harm."""
SLOW_FRAME_S = 0.3
CACHE_BYTES = 1000
LOADING_S = 300.0


def make_light_model_handler(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Handler:
    """No torch, no weights: reads manifests as the real one does, writes files of a known size."""

    def handle(task: Load | Calibrate | Prefill) -> Staged | None:
        if not isinstance(task, Prefill):
            return None
        began_s = time.monotonic()
        slots = len(Manifest.read(task.manifest).frame)
        task.allowance.check(CACHE_BYTES)
        task.staged.write_bytes(bytes(CACHE_BYTES))
        facts = {"slots": slots, "cache_bytes": CACHE_BYTES, "fp16_kv_bytes": 4 * CACHE_BYTES}
        seconds = {"encode_seconds": 0.1, "prefill_seconds": 0.2}
        return Staged(facts={**facts, **seconds}, began_s=began_s, ended_s=time.monotonic())

    return handle


def make_model_that_names_its_dtype(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Handler:
    """Writes the dtype that it is to run in where a cache would be."""
    handler = make_light_model_handler(settings, device, threads, progress)

    def handle(task: Load | Prefill) -> Staged | None:
        staged = handler(task)
        if isinstance(task, Prefill):
            task.staged.write_text(str(settings.model.dtype))
        return staged

    return handle


def _harming(handler: Handler, harm: Callable[[Any], object], kind: type) -> Handler:
    """A handler that does harm before each task of a kind, if it is the victim's or a Load."""

    def handle(task: Any) -> Any:
        if isinstance(task, kind) and (kind is Load or task.row.path.endswith(VICTIM)):
            harm(task)
        return handler(task)

    return handle


def _hang(task: Any = None) -> None:
    while True:
        time.sleep(1)


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _refuse(task: Analyze) -> None:
    raise VideoError(f"{task.row.path}: Stale file handle", Reason.UNREADABLE)


def make_probe_that_crashes(progress: Progress) -> Handler:
    return _harming(make_video_handler(progress), lambda task: _end_by(signal.SIGSEGV), Probe)


def make_probe_that_hangs(progress: Progress) -> Handler:
    return _harming(make_video_handler(progress), _hang, Probe)


def make_probe_that_cannot_read(progress: Progress) -> Handler:
    from batch.archive import discovery

    probe = discovery.probe

    def refusing(path: Path, progress: Progress) -> Any:
        if path.name == VICTIM:
            raise PermissionError(13, "Permission denied")
        return probe(path, progress=progress)

    discovery.probe = refusing
    return make_video_handler(progress)


def make_analysis_that_is_killed(progress: Progress) -> Handler:
    return _harming(make_video_handler(progress), lambda task: _end_by(signal.SIGKILL), Analyze)


def make_analysis_whose_file_vanishes(progress: Progress) -> Handler:
    return _harming(make_video_handler(progress), lambda task: os.remove(task.row.path), Analyze)


def make_analysis_that_cannot_read(progress: Progress) -> Handler:
    return _harming(make_video_handler(progress), _refuse, Analyze)


def make_analysis_on_a_full_disk(progress: Progress) -> Handler:
    from batch.analysis import pictures

    pictures.tempfile.TemporaryFile = lambda dir: open("/dev/full", "w+b", buffering=0)  # noqa: SIM115
    return make_video_handler(progress)


def make_decoder_that_hangs(progress: Progress) -> Handler:
    """In the middle of a video, after some of its frames."""
    from batch.video import samples

    decode_frames = samples.decode_frames

    def hanging(container: Any, *others: Any) -> Iterator[Any]:
        for number, frame in enumerate(decode_frames(container, *others)):
            if number == 3 and container.name.endswith(VICTIM):
                _hang()
            yield frame

    samples.decode_frames = hanging
    return make_video_handler(progress)


def make_decoder_that_takes_its_time(progress: Progress) -> Handler:
    """Every frame comes soon, all together take long."""
    from batch.video import samples

    decode_frames = samples.decode_frames

    def slow(*args: Any) -> Iterator[Any]:
        for frame in decode_frames(*args):
            time.sleep(SLOW_FRAME_S)
            yield frame

    samples.decode_frames = slow
    return make_video_handler(progress)


def make_model_that_crashes(*args: Any) -> Handler:
    handler = make_light_model_handler(*args)
    return _harming(handler, lambda task: _end_by(signal.SIGABRT), Prefill)


def make_model_that_hangs(*args: Any) -> Handler:
    return _harming(make_light_model_handler(*args), _hang, Prefill)


def make_model_that_loads_for_long(*args: Any) -> Handler:
    """Loads for so long that a test which waits for it fails."""
    return _harming(make_light_model_handler(*args), lambda task: time.sleep(LOADING_S), Load)


def make_model_that_is_killed_in_a_second_segment(*args: Any) -> Handler:
    """The kernel ends it while it writes the second segment of a video."""
    from batch.making import maker

    prefill = maker.prefill

    def limited(plan: Any, family: Any, path: Any, progress: Any) -> None:
        harm = (lambda samples: _end_by(signal.SIGKILL)) if plan.header.segment.number else progress
        prefill(plan, family, path, progress=harm)

    maker.prefill = limited
    return make_model_handler(*args)


def make_model_with_little_memory(*args: Any) -> Handler:
    """Memory runs out in the middle of blocks of more than two samples, or for the victim."""
    import torch

    from batch.making import maker

    prefill = maker.prefill

    def limited(plan: Any, family: Any, path: Any, progress: Any) -> None:
        if plan.block_samples > 2 or plan.manifest.video.name == VICTIM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        prefill(plan, family, path, progress=progress)

    maker.prefill = limited
    return make_model_handler(*args)
