"""What a measurement ran on. Reads Linux's /proc; what is not there is None."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from batch.evaluation.bench.proc import field, field_bytes

PACKAGES = ("sali-cache", "torch", "transformers", "av", "opencv-python-headless", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, threads torch uses, memory, GPU, kernel, load."""
    return {
        "processor": field(Path("/proc/cpuinfo"), "model name") or platform.processor() or None,
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": field_bytes(Path("/proc/meminfo"), "MemTotal"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
