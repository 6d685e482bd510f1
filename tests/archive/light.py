"""A stand-in for the model, for tests of what is around it: no torch, no weights, at once."""

import time
from collections.abc import Callable
from typing import Any

from batch.analysis.manifest import Manifest
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Load, Prefill, Staged
from jobs.workers import Progress

CACHE_BYTES = 1000
LOADING_S = 300.0


def make_light_model_handler(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """Reads manifests as the real one does, and writes files of a known size."""

    def handle(task: Load | Prefill) -> Staged | None:
        if isinstance(task, Load):
            return None
        began_s = time.monotonic()
        slots = len(Manifest.read(task.manifest).frame)
        task.allowance.check(CACHE_BYTES)
        task.staged.write_bytes(bytes(CACHE_BYTES))
        facts = {"slots": slots, "cache_bytes": CACHE_BYTES, "fp16_kv_bytes": 4 * CACHE_BYTES}
        seconds = {"encode_seconds": 0.1, "prefill_seconds": 0.2}
        return Staged(facts={**facts, **seconds}, began_s=began_s, ended_s=time.monotonic())

    return handle


def make_model_handler_that_loads_for_long(
    settings: IndexSettings, device: str | None, threads: int, progress: Progress
) -> Callable[[Any], Any]:
    """Loads for so long that a test which waits for it fails."""
    handle = make_light_model_handler(settings, device, threads, progress)

    def slow(task: Any) -> Any:
        if isinstance(task, Load):
            time.sleep(LOADING_S)
        return handle(task)

    return slow
