"""Handlers that fail as memory, kernels and decoders do; imported by worker processes too."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batch.archive.handlers import make_model_handler, make_video_handler
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Analyze, Prefill, Probe
from batch.errors import Reason, VideoError
from tests.archive.light import make_light_model_handler

VICTIM = "b.mkv"
"""Whatever works on a video of this name comes to harm."""


def _is_victim(task: Any, *kinds: type) -> bool:
    return isinstance(task, kinds) and task.row.path.endswith(VICTIM)


def _video_handler(harm: Callable[[Any], object], *kinds: type) -> Callable[[Any], Any]:
    handler = make_video_handler()

    def work(task: Any) -> Any:
        if _is_victim(task, *kinds):
            harm(task)
        return handler(task)

    return work


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def make_probe_that_crashes() -> Callable[[Any], Any]:
    return _video_handler(lambda task: _end_by(signal.SIGSEGV), Probe)


def make_analysis_that_is_killed() -> Callable[[Any], Any]:
    return _video_handler(lambda task: _end_by(signal.SIGKILL), Analyze)


def make_analysis_whose_file_vanishes() -> Callable[[Any], Any]:
    return _video_handler(lambda task: os.remove(task.row.path), Analyze)


def make_analysis_that_cannot_read() -> Callable[[Any], Any]:
    return _video_handler(_refuse, Analyze)


def make_probe_that_cannot_read() -> Callable[[Any], Any]:
    from batch.archive import probing

    probe = probing.probe

    def refusing(path: Path) -> Any:
        if path.name == VICTIM:
            raise PermissionError(13, "Permission denied")
        return probe(path)

    probing.probe = refusing
    return make_video_handler()


def make_analysis_on_a_full_disk() -> Callable[[Any], Any]:
    from batch.analysis import pictures

    pictures.tempfile.TemporaryFile = lambda dir: open("/dev/full", "w+b", buffering=0)  # noqa: SIM115
    return make_video_handler()


def _refuse(task: Analyze) -> None:
    raise VideoError(f"{task.row.path}: Stale file handle", Reason.UNREADABLE)


def make_model_that_crashes(
    settings: IndexSettings, device: str | None, threads: int
) -> Callable[[Any], Any]:
    handler = make_light_model_handler(settings, device, threads)

    def work(task: Any) -> Any:
        if _is_victim(task, Prefill):
            _end_by(signal.SIGABRT)
        return handler(task)

    return work


def make_model_that_is_killed_in_a_second_segment(
    settings: IndexSettings, device: str | None, threads: int
) -> Callable[[Any], Any]:
    """The kernel ends it while it writes the second segment of a video."""
    from batch.archive import prefilling

    prefill = prefilling.prefill

    def limited(plan: Any, family: Any, path: Any) -> None:
        harm = (lambda samples: _end_by(signal.SIGKILL)) if plan.header.segment.number else None
        prefill(plan, family, path, **({"progress": harm} if harm else {}))

    prefilling.prefill = limited
    return make_model_handler(settings, device, threads)


def make_model_with_little_memory(
    settings: IndexSettings, device: str | None, threads: int
) -> Callable[[Any], Any]:
    """Memory runs out in the middle of blocks of more than two samples, or for the victim."""
    import torch

    from batch.archive import prefilling

    prefill = prefilling.prefill

    def limited(plan: Any, family: Any, path: Any) -> None:
        if plan.block_samples > 2 or plan.manifest.video.name == VICTIM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        prefill(plan, family, path)

    prefilling.prefill = limited
    return make_model_handler(settings, device, threads)
