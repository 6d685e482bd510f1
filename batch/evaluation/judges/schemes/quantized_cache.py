"""transformers' QuantizedCache, with both of its backends.

The backends lie where `make judges` puts them, apart from what the product needs, and transformers
looks for them when it is imported: so a process of its own, which finds them, quantises.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file

from batch.errors import BatchError
from batch.evaluation.judges.packages import JUDGES
from batch.evaluation.judges.schemes.scheme import Scheme
from batch.evaluation.methods.row_method import Held, Kind, Rows

QUANTIZERS = JUDGES / "quantizers"
WORKER = "batch.evaluation.judges.quantizing"
Backend = Literal["hqq", "quanto"]
QUANTIZED: tuple[tuple[Backend, int], ...] = (
    *(("hqq", 8), ("hqq", 4), ("hqq", 2), ("quanto", 4), ("quanto", 2)),
)
"""What QuantizedCache can do."""


@dataclass(frozen=True, kw_only=True)
class Quantized(Scheme):
    """The whole prefix quantised as at the cache's first update, in its own groups of 64.

    Source: transformers 5.23, optimum-quanto 0.2.7, hqq 0.2.8.post1. Counted as for `make rivals`:
    packed codes, scales and zero points as FP16.
    """

    kind: Kind | None = None
    in_file: bool | None = None
    backend: Backend
    bits: int

    def store(self, rows: Rows) -> Held:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "rows"), Path(folder, "decoded")
            save_file({"key": rows.key.contiguous(), "value": rows.value.contiguous()}, source)
            job = {"backend": self.backend, "bits": self.bits}
            size_bytes = _ask(_worker(), {**job, "source": str(source), "target": str(target)})
            decoded = load_file(target)
        return Held(decoded["key"], decoded["value"], size_bytes)


@functools.cache
def _worker() -> "subprocess.Popen[str]":
    if not QUANTIZERS.is_dir():
        raise BatchError(
            f"{QUANTIZERS}: no backends of QuantizedCache; in the repository's folder, run:  "
            "make judges"
        )
    paths = [str(QUANTIZERS), *(path for path in sys.path if path)]
    return subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _ask(worker: "subprocess.Popen[str]", job: dict[str, Any]) -> int:
    if worker.stdin is None or worker.stdout is None:
        raise TypeError("the process was started without pipes")
    try:
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        return int(worker.stdout.readline())
    except (OSError, ValueError) as error:
        raise BatchError("QuantizedCache: its process ended; what it wrote stands above") from error
