"""What a piece of work takes: seconds, memory, bytes of files; and on which machine.

Knows torch and Linux's /proc, nothing of models. What /proc does not tell is None.
"""

import ctypes
import gc
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from batch.models.placement import default_dtype
from jobs.workers import usable_cores

_PACKAGES = ("sali-cache", "torch", "transformers", "av", "opencv-python-headless", "numpy")

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[[], object]
Log = Callable[[str], object]
"""Receives lines of progress."""


def machine() -> dict[str, Any]:
    """The processor and models' dtype on it, cores, torch's threads, memory, GPU, kernel, load."""
    processor = _proc_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or None
    return {
        "processor": processor,
        "processor_dtype": default_dtype(torch.device("cpu")),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": proc_bytes(Path("/proc/meminfo"), "MemTotal"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": load_1min(),
    }


def load_1min() -> float:
    """Mean number of processes that ran or waited in the last minute."""
    return os.getloadavg()[0]


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def circumstances(before: dict[str, Any]) -> dict[str, Any]:
    """What is told beside figures: the machine before, its load now, and versions."""
    return {"machine": before, "load_after_1min": load_1min(), "versions": versions()}


class OtherWork:
    """What other processes take of this machine, from its making on."""

    def __init__(self) -> None:
        self._before = _others_seconds()
        self._started = time.perf_counter()

    def share(self) -> float | None:
        """Of all cores' time; None where the kernel does not say."""
        now, wall = _others_seconds(), time.perf_counter() - self._started
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / (wall * (os.cpu_count() or 1))


def _others_seconds() -> float | None:
    """Seconds that cores worked, for whomever, less those of this process and its children.

    Children count when they have ended.
    """
    file = Path("/proc/stat")
    if not file.exists():
        return None
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(
        int, file.read_text().split(maxsplit=9)[1:9]
    )
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - sum(own[:4])


def in_new_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a module in a new process, with nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, until a GPU that it used is done, and its result."""
    _wait_for_gpu()
    started = time.perf_counter()
    result = work()
    _wait_for_gpu()
    return time.perf_counter() - started, result


def timed_again(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls: the first makes ready what it is the first to need."""
    work()
    return timed(work)[0]


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch 2.13
        torch.cuda.synchronize()


def within(repeats: int, seconds: float = 60.0) -> Iterator[int]:
    """Numbers of repeats from 0 on; after so many seconds none begins but the first."""
    started = time.perf_counter()
    for number in range(repeats):
        if number and time.perf_counter() - started > seconds:
            return
        yield number


def side_by_side(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in each repeat, run in turn (A B A B), so that drift meets all.

    Repeats are those of `within`.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in within(repeats):
        for name, work in works.items():
            taken[name].append(timed(work)[0])
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
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak: int = max(accumulate((size_bytes for _, size_bytes in changes), initial=0))
    return peak


def peak_resident(work: Work) -> int | None:
    """Most resident memory of this process during a call, above what it held before.

    What every library and mapped file holds; from the kernel, so only as exact as its counters
    and as freed memory that is not given back allows.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # VmHWM starts again at VmRSS (Linux, proc(5))
    before = proc_bytes(status, "VmRSS") or 0
    work()
    return max(0, (proc_bytes(status, "VmHWM") or 0) - before)


@dataclass(frozen=True, kw_only=True)
class BytesRead:
    """What a piece of work took from some files, by three of the kernel's counters: none sees all.

    - asked: by read calls, from any file, without what reading the counter takes: `rchar`.
    - mapped: pages of the files that were touched, and those that the kernel maps with them.
    - disk: what came from the disk, in whole pages and with what the kernel reads ahead:
      `read_bytes`. 0 on file systems in memory.
    """

    asked: int
    mapped: int
    disk: int


def bytes_read(work: Work, files: Sequence[Path]) -> BytesRead:
    """Count what a call takes from files, of which nothing is in memory before.

    The files must not be mapped before. What the call maps it must leave mapped, in its result.
    """
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = _counters()
    idle = _counters()
    kept = work()
    after = _counters()
    mapped = _mapped_bytes(files)
    del kept
    return BytesRead(
        asked=(after["rchar"] - idle["rchar"]) - (idle["rchar"] - before["rchar"]),
        mapped=mapped,
        disk=after["read_bytes"] - idle["read_bytes"],
    )


def _counters() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def _mapped_bytes(files: Sequence[Path]) -> int:
    """Resident bytes of these files' mappings in this process."""
    names = {str(file.resolve()) for file in files}
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = line.split(maxsplit=5)[-1] in names
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def _proc_field(path: Path, name: str) -> str | None:
    """The value of the first `name: value` of a file of /proc."""
    lines = path.read_text().splitlines() if path.exists() else []
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), None)


def proc_bytes(path: Path, name: str) -> int | None:
    """A field of /proc that counts kilobytes, as "1024 kB"."""
    found = _proc_field(path, name)
    return None if found is None else int(found.split()[0]) * 1024
