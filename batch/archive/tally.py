"""What a run did so far, in numbers; also as a textfile for Prometheus' node_exporter."""

import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from batch.errors import BatchError, Reason

_METRICS_EVERY_S = 15.0
_LAST_SUCCESS = "last_success_timestamp_seconds"


@dataclass
class Tally:
    """Counts files and videos of one run.

    - to_probe: files to be opened, of which `probed` were.
    - to_do: videos that are this run's; behind it are `done` and `given_up`, which failed in
      analysis or prefill, or changed since they were looked at.
    - analyzed: manifests written; under_way: what processes are doing, in words.
    - skipped: done by an earlier run; not_analyzed: to be prefilled, but not this run's to analyse.
    - failed: in this run; failed_before: in an earlier one, and nothing changed since.
    - seconds: of work in each phase, summed over workers.
    - idle_seconds: that model workers stood still although a manifest was ready.
    """

    files: int = 0
    to_probe: int = 0
    probed: int = 0
    to_do: int = 0
    analyzed: int = 0
    done: int = 0
    given_up: int = 0
    skipped: int = 0
    not_analyzed: int = 0
    written_bytes: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)
    failed_before: Counter[Reason] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    idle_seconds: float = 0.0
    under_way: Sequence[str] = ()
    started_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def failures(self) -> int:
        """Files and videos that have no cache because something is wrong with them."""
        return sum(self.by_reason.values())

    @property
    def by_reason(self) -> dict[Reason, int]:
        """Failures of this run and of earlier ones, by reason."""
        return dict(sorted((self.failed + self.failed_before).items()))

    @property
    def expected(self) -> int:
        """Videos for this run, if all files that are still to be opened hold some."""
        return self.to_do + self.to_probe - self.probed

    @property
    def ended(self) -> int:
        return self.done + self.given_up

    @property
    def left(self) -> int:
        return self.to_do - self.ended


class MetricsFile:
    """A textfile of a run's numbers; rewritten by rename, so that it is never read half."""

    def __init__(self, path: Path) -> None:
        """Read the time of the last success from the file that is there, if there is one."""
        self._path = path
        self._last_success = _last_success(path)
        self._written_s: float | None = None

    def update(self, tally: Tally) -> None:
        """Write the numbers, if the last time is some seconds ago."""
        if self._written_s is None:
            self._write(tally)
        elif time.monotonic() - self._written_s > _METRICS_EVERY_S:
            with suppress(BatchError):  # `end` is soon enough to report it
                self._write(tally)

    def end(self, tally: Tally, *, success: bool) -> None:
        """Write the last numbers; `success`: all was done that could be, even if videos failed."""
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
    videos = {
        'status="done"': tally.done,
        'status="skipped"': tally.skipped,
        'status="pending"': tally.left,
        'status="failed"': tally.failures,
    }
    failed = {f'reason="{reason}"': count for reason, count in tally.by_reason.items()}
    work = {f'phase="{phase}"': tally.seconds[phase] for phase in ("analyze", "prefill")}
    lines = [
        *_metric("files", "Files of the archive.", {"": tally.files}),
        *_metric("videos", "Videos by what became of them.", videos),
        *_metric("failed_videos", "Videos without a cache, by reason.", failed),
        *_metric("written_bytes", "Written by this run.", {"": tally.written_bytes}),
        *_metric("work_seconds", "Work of this run, summed over processes.", work),
        *_metric("run_seconds", "Length of this run.", {"": tally.elapsed_s}),
    ]
    if last_success is not None:
        lines += _metric(_LAST_SUCCESS, "End of the last run that did all.", {"": last_success})
    return "".join(f"{line}\n" for line in lines)


def _metric(name: str, meaning: str, values: Mapping[str, float]) -> list[str]:
    name = f"sali_cache_{name}"
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    for labels, value in values.items():
        number = f"{value:.3f}" if isinstance(value, float) else str(value)
        lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")
    return lines


def _last_success(path: Path) -> float | None:
    try:
        found = re.search(rf"^sali_cache_{_LAST_SUCCESS} (\S+)$", path.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"{path}: cannot be read: {error.strerror}") from error
    return float(found[1]) if found else None
