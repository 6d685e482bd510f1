"""Handlers that fail as memory, kernels and decoders do; imported by worker processes too."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from batch.archive.handlers import make_model_handler, make_video_handler
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Analyze, Prefill, Probe
from batch.errors import Reason, VideoError
from jobs.workers import Progress
from tests.archive.light import make_light_model_handler

VICTIM = "b.mkv"
"""Whatever works on a video of this name comes to harm."""
SLOW_FRAME_S = 0.3


def _is_victim(task: Any, *kinds: type) -> bool:
    return isinstance(task, kinds) and task.row.path.endswith(VICTIM)


def _video_handler(
    progress: Progress, harm: Callable[[Any], object], *kinds: type
) -> Callable[[Any], Any]:
    handler = make_video_handler(progress)

    def work(task: Any) -> Any:
        if _is_victim(task, *kinds):
            harm(task)
        return handler(task)

    return work


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def make_probe_that_crashes(progress: Progress) -> Callable[[Any], Any]:
    return _video_handler(progress, lambda task: _end_by(signal.SIGSEGV), Probe)


def make_analysis_that_is_killed(progress: Progress) -> Callable[[Any], Any]:
    return _video_handler(progress, lambda task: _end_by(signal.SIGKILL), Analyze)


def make_probe_that_hangs(progress: Progress) -> Callable[[Any], Any]:
    return _video_handler(progress, _hang, Probe)


def make_decoder_that_hangs(progress: Progress) -> Callable[[Any], Any]:
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


def make_decoder_that_takes_its_time(progress: Progress) -> Callable[[Any], Any]:
    """Every frame comes soon, all together take long."""
    from batch.video import samples

    decode_frames = samples.decode_frames

    def slow(*args: Any) -> Iterator[Any]:
        for frame in decode_frames(*args):
            time.sleep(SLOW_FRAME_S)
            yield frame

    samples.decode_frames = slow
    return make_video_handler(progress)


def _hang(task: Any = None) -> None:
    while True:
        time.sleep(1)


def make_analysis_whose_file_vanishes(progress: Progress) -> Callable[[Any], Any]:
    return _video_handler(progress, lambda task: os.remove(task.row.path), Analyze)


def make_analysis_that_cannot_read(progress: Progress) -> Callable[[Any], Any]:
    return _video_handler(progress, _refuse, Analyze)


def make_probe_that_cannot_read(progress: Progress) -> Callable[[Any], Any]:
    from batch.archive import probing

    probe = probing.probe

    def refusing(path: Path, progress: Progress) -> Any:
        if path.name == VICTIM:
            raise PermissionError(13, "Permission denied")
        return probe(path, progress=progress)

    probing.probe = refusing
    return make_video_handler(progress)


def make_analysis_on_a_full_disk(progress: Progress) -> Callable[[Any], Any]:
    from batch.analysis import pictures

    pictures.tempfile.TemporaryFile = lambda dir: open("/dev/full", "w+b", buffering=0)  # noqa: SIM115
    return make_video_handler(progress)


def _refuse(task: Analyze) -> None:
    raise VideoError(f"{task.row.path}: Stale file handle", Reason.UNREADABLE)


def make_model_that_crashes(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    handler = make_light_model_handler(settings, device, threads, progress)

    def work(task: Any) -> Any:
        if _is_victim(task, Prefill):
            _end_by(signal.SIGABRT)
        return handler(task)

    return work


def make_model_that_hangs(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    handler = make_light_model_handler(settings, device, threads, progress)

    def work(task: Any) -> Any:
        if _is_victim(task, Prefill):
            _hang()
        return handler(task)

    return work


def make_model_that_is_killed_in_a_second_segment(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """The kernel ends it while it writes the second segment of a video."""
    from batch.archive import prefilling

    prefill = prefilling.prefill

    def limited(plan: Any, family: Any, path: Any, progress: Any) -> None:
        harm = (lambda samples: _end_by(signal.SIGKILL)) if plan.header.segment.number else progress
        prefill(plan, family, path, progress=harm)

    prefilling.prefill = limited
    return make_model_handler(settings, device, threads, progress)


def make_model_with_little_memory(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """Memory runs out in the middle of blocks of more than two samples, or for the victim."""
    import torch

    from batch.archive import prefilling

    prefill = prefilling.prefill

    def limited(plan: Any, family: Any, path: Any, progress: Any) -> None:
        if plan.block_samples > 2 or plan.manifest.video.name == VICTIM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        prefill(plan, family, path, progress=progress)

    prefilling.prefill = limited
    return make_model_handler(settings, device, threads, progress)
