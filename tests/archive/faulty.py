"""Desks that fail as memory, kernels and decoders do; imported by worker processes too."""

import os
import signal
from collections.abc import Callable
from typing import Any

from batch.archive.desks import open_model_desk, open_video_desk
from batch.archive.order import Order
from batch.archive.tasks import Analyze, Look, Prefill

VICTIM = "b.mkv"
"""Whatever works on a video of this name comes to harm."""


def _is_victim(task: Any, *kinds: type) -> bool:
    return isinstance(task, kinds) and task.row.path.endswith(VICTIM)


def _video_desk(harm: Callable[[], object], *kinds: type) -> Callable[[Any], Any]:
    desk = open_video_desk()

    def work(task: Any) -> Any:
        if _is_victim(task, *kinds):
            harm()
        return desk(task)

    return work


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def open_looking_that_crashes() -> Callable[[Any], Any]:
    return _video_desk(lambda: _end_by(signal.SIGSEGV), Look)


def open_analysis_that_is_killed() -> Callable[[Any], Any]:
    return _video_desk(lambda: _end_by(signal.SIGKILL), Analyze)


def open_model_that_crashes(order: Order, device: str | None, threads: int) -> Callable[[Any], Any]:
    desk = open_model_desk(order, device, threads)

    def work(task: Any) -> Any:
        if _is_victim(task, Prefill):
            _end_by(signal.SIGABRT)
        return desk(task)

    return work


def open_model_with_little_memory(
    order: Order, device: str | None, threads: int
) -> Callable[[Any], Any]:
    """Memory runs out in the middle of blocks of more than two samples."""
    return _starving(order, device, threads, lambda plan: plan.block_samples > 2)


def open_model_without_memory(
    order: Order, device: str | None, threads: int
) -> Callable[[Any], Any]:
    """The victim does not fit the memory in any blocks."""
    return _starving(order, device, threads, lambda plan: plan.manifest.video.name == VICTIM)


def _starving(
    order: Order, device: str | None, threads: int, is_too_much: Callable[[Any], bool]
) -> Callable[[Any], Any]:
    import torch

    from batch.archive import prefilling

    prefill = prefilling.prefill

    def limited(plan: Any, family: Any, path: Any) -> None:
        if is_too_much(plan):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        prefill(plan, family, path)

    prefilling.prefill = limited
    return open_model_desk(order, device, threads)
