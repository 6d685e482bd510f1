"""What workers do: one desk for the processor's work, one for the model's.

Light to import: a desk imports what it needs where it is opened, in its own process.
"""

from collections.abc import Callable
from typing import Any

from batch.archive.inventory import FileRow
from batch.archive.model_facts import ModelFacts
from batch.archive.order import Order
from batch.archive.tasks import Analyze, Describe, Load, Look, Prefill, Staged


def open_describing_desk() -> Callable[[Describe], ModelFacts]:
    """A desk that looks at the model of an order."""
    from batch.archive.describing import describe

    return describe


def open_video_desk() -> Callable[[Look | Analyze], FileRow | Staged | None]:
    """A desk that opens videos, on one core."""
    import cv2

    from batch.archive.analyzing import analyze
    from batch.archive.looking import look

    # OpenCV 5.0 has threads of its own, which OMP_NUM_THREADS does not reach.
    cv2.setNumThreads(1)
    return lambda task: look(task.row) if isinstance(task, Look) else analyze(task)


def open_model_desk(order: Order, device: str | None, threads: int) -> Callable[[Any], Any]:
    """A desk with the model of an order on one device.

    Args:
        threads: of the processor; always as many for the same machine and options, because
            sums depend on how they are divided.
    """
    from batch.archive.prefilling import Prefiller

    prefiller = Prefiller(order, device=device, threads=threads)

    def work(task: Load | Prefill) -> Staged | None:
        if isinstance(task, Prefill):
            return prefiller.prefill(task)
        prefiller.load()
        return None

    return work
