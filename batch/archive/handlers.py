"""What workers do: one handler for the processor's work, one for the model's.

Light to import: a handler imports what it needs where it is opened, in its own process.
"""

from collections.abc import Callable
from typing import Any

from batch.archive.inventory import FileRow
from batch.archive.model_facts import ModelFacts
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Analyze, Describe, Load, Prefill, Probe, Staged
from jobs.workers import Progress


def make_describe_handler(progress: Progress) -> Callable[[Describe], ModelFacts]:
    """A handler that looks at the model of an index."""
    from batch.archive.describing import describe

    return describe


def make_video_handler(progress: Progress) -> Callable[[Probe | Analyze], FileRow | Staged | None]:
    """A handler that opens videos, on one core."""
    import cv2

    from batch.archive.analyzing import analyze
    from batch.archive.probing import probe_file

    # OpenCV 5.0 has threads of its own, which OMP_NUM_THREADS does not reach.
    cv2.setNumThreads(1)

    def work(task: Probe | Analyze) -> FileRow | Staged | None:
        if isinstance(task, Probe):
            return probe_file(task.row, progress)
        return analyze(task, progress)

    return work


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

    def work(task: Load | Prefill) -> Staged | None:
        if isinstance(task, Prefill):
            return prefiller.prefill(task, progress)
        prefiller.load()
        return None

    return work
