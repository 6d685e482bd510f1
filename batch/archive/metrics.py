"""A run's numbers as a Prometheus textfile, as node_exporter collects them from a folder."""

import os
import re
import time
from contextlib import nullcontext, suppress
from pathlib import Path

from batch.archive.tally import Tally
from batch.errors import BatchError

WRITTEN_EVERY_S = 15.0
_LAST_SUCCESS = "sali_cache_last_success_timestamp_seconds"


class MetricsFile:
    """Rewritten by rename, so that it is never read half."""

    def __init__(self, path: Path) -> None:
        """Read the time of the last success from the file that is there, if there is one.

        Raises:
            BatchError: it cannot be written.
        """
        self._path = path
        self._last_success = _last_success(path)
        self._written_s = float("-inf")

    def update(self, tally: Tally) -> None:
        """Write the numbers, if the last time is some seconds ago.

        Raises:
            BatchError: not even the first time; later `end` is soon enough to say so.
        """
        if time.monotonic() - self._written_s > WRITTEN_EVERY_S:
            is_first = self._written_s == float("-inf")
            with nullcontext() if is_first else suppress(BatchError):
                self._write(tally)

    def end(self, tally: Tally, *, success: bool) -> None:
        """Write the numbers of a run that has ended.

        Args:
            success: all was done that could be, even if some videos failed.

        Raises:
            BatchError: it cannot be written.
        """
        if success:
            self._last_success = time.time()
        self._write(tally)

    def _write(self, tally: Tally) -> None:
        self._written_s = time.monotonic()
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(metrics(tally, self._last_success), encoding="ascii")
            temporary.replace(self._path)
        except OSError as error:
            raise BatchError(f"{self._path}: cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def metrics(tally: Tally, last_success: float | None) -> str:
    """The text of the file."""
    lines = [
        *_metric("sali_cache_files", "Files of the archive.", {"": tally.files}),
        *_metric(
            "sali_cache_videos",
            "Videos by what became of them.",
            {
                'status="done"': tally.done,
                'status="skipped"': tally.skipped,
                'status="pending"': tally.left,
                'status="failed"': tally.failures,
            },
        ),
        *_metric(
            "sali_cache_failed_videos",
            "Videos without a cache, by reason.",
            {f'reason="{reason}"': count for reason, count in tally.by_reason.items()},
        ),
        *_metric("sali_cache_written_bytes", "Written by this run.", {"": tally.written_bytes}),
        *_metric(
            "sali_cache_work_seconds",
            "Work of this run, summed over processes.",
            {f'phase="{phase}"': tally.seconds[phase] for phase in ("analyze", "prefill")},
        ),
        *_metric("sali_cache_run_seconds", "Length of this run.", {"": tally.elapsed_s}),
    ]
    if last_success is not None:
        lines += _metric(_LAST_SUCCESS, "End of the last run that did all.", {"": last_success})
    return "".join(f"{line}\n" for line in lines)


def _metric(name: str, meaning: str, values: dict[str, float]) -> list[str]:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    for labels, value in values.items():
        number = f"{value:.3f}" if isinstance(value, float) else str(value)
        lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")
    return lines


def _last_success(path: Path) -> float | None:
    try:
        found = re.search(rf"^{_LAST_SUCCESS} (\S+)$", path.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"{path}: cannot be read: {error.strerror}") from error
    return float(found[1]) if found else None
