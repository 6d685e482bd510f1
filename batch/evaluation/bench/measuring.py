"""Seconds and bytes of a piece of work. Knows torch and Linux's /proc, nothing of models."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from batch.evaluation.bench.proc import field_bytes

Work = Callable[[], object]
Found = tuple[dict[str, float], dict[str, Any]]
"""Ratios, and the figures behind them."""


def seconds(work: Work) -> float:
    """Wall time of a call, until a GPU that it used is done."""
    _wait_for_gpu()
    started = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - started


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch 2.13
        torch.cuda.synchronize()


def side_by_side(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in each repeat, run in turn (A B A B), so that drift meets all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the repeats of the ratio of two figures of one repeat."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def peak_allocated(work: Work, device: str = "cpu") -> int:
    """Most bytes that torch held on a device at one moment of a call, above what it held before.

    Every allocation of torch's allocator is counted, also those inside operations. Not seen:
    memory of other libraries (the decoder, OpenCV, numpy) and pages of mapped files.
    """
    gc.collect()
    return _peak_on_gpu(work) if device == "cuda" else _peak_on_cpu(work)


def _peak_on_gpu(work: Work) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(work: Work) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, size_bytes in changes:
        held += size_bytes
        peak = max(peak, held)
    return peak


def peak_resident(work: Work) -> int | None:
    """Most resident memory of this process during a call, above what it held before.

    What every library and mapped file holds; from the kernel, so only as exact as its counters
    and as freed memory that is not given back allows. None where Linux's /proc is not.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # VmHWM starts again at VmRSS (Linux, proc(5))
    before = field_bytes(status, "VmRSS") or 0
    work()
    return max(0, (field_bytes(status, "VmHWM") or 0) - before)
