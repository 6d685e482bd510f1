"""What a run over an archive reports: results on stdout, all else on stderr, numbers in a file."""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import click
from tqdm import tqdm

from batch.archive.tally import MetricsFile, Tally
from batch.cli.progress import LINE_EVERY_S, in_line, in_words, is_quiet
from batch.errors import Reason
from jobs.stopping import Stop


class Reporter:
    """Listens to a run. A bar on a terminal; elsewhere a line a minute.

    `log_format` is "text", or "json" for an object a line; `as_json` is for the results on stdout,
    which are else paths.
    """

    def __init__(self, log_format: str, *, as_json: bool, metrics_file: Path | None) -> None:
        self._logs_json = log_format == "json"
        self._as_json = as_json
        self._metrics = None if metrics_file is None else MetricsFile(metrics_file)
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty() and not self._logs_json and not is_quiet():
            self._bar = tqdm(
                total=1.0,
                bar_format="index {percentage:3.0f}%|{bar:20}| {postfix}",
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._reported_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def done(self, path: str, file: Path, record: Mapping[str, Any]) -> None:
        with self._above_bar():
            click.echo(json.dumps({"file": str(file), **record}) if self._as_json else file)
        if self._logs_json:
            self._log("info", "done", f"{path}: done", path=path, file=str(file))

    def failed(self, path: str, reason: Reason, message: str) -> None:
        text = message if message.startswith(path) else f"{path}: {message}"
        self._log("error", "failed", text, path=path, reason=reason)

    def warned(self, message: str) -> None:
        self._log("warning", "warning", message)

    def ticked(self, tally: Tally) -> None:
        if self._metrics is not None:
            self._metrics.update(tally)
        if self._bar is not None:
            self._bar.n = _share(tally)
            self._bar.set_postfix_str(_state(tally))
        elif time.monotonic() - self._reported_s >= LINE_EVERY_S:
            self._reported_s = time.monotonic()
            self._log("info", "progress", f"index: {_state(tally)}", **_numbers(tally))

    def end(self, tally: Tally, stop: Stop) -> None:
        """Report what was done, and why it ended before its time if it did."""
        if self._metrics is not None:
            self._metrics.end(tally, success=not stop.is_asked)
        reasons = ", ".join(f"{count} {reason}" for reason, count in tally.by_reason.items())
        parts = {
            "done": tally.done,
            "skipped": tally.skipped,
            "not analysed yet": tally.not_analyzed,
            "left": tally.left,
            f"failed ({reasons})": tally.failures,
        }
        counts = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        text = f"{counts or '0 done'}; {tally.written_bytes:,} bytes, {tally.elapsed_s:.1f} s"
        if stop.signal is not None:
            text = f"stopped by {stop.signal.name}, the same command goes on; {text}"
        self._log("info", "end", text, **_numbers(tally))

    def _log(self, level: str, event: str, text: str, **values: Any) -> None:
        if level == "info" and is_quiet():
            return
        if self._logs_json:
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            line = {"time": now, "level": level, "event": event, "message": text, **values}
            click.echo(json.dumps(line), err=True)
            return
        with self._above_bar():
            click.echo(text if level == "info" else f"{level}: {text}", err=True)

    def _above_bar(self) -> AbstractContextManager[object]:
        return nullcontext() if self._bar is None else tqdm.external_write_mode(file=sys.stderr)


def _share(tally: Tally) -> float:
    """How much of the run is done, 0..1: half of a video when it is analysed, all at its end."""
    halves = tally.ended + max(tally.ended, tally.analyzed)
    return min(1.0, halves / 2 / tally.expected) if tally.expected else 0.0


def _state(tally: Tally) -> str:
    """Where a run stands, in a line."""
    text = f"{tally.done} of {tally.expected} videos"
    if tally.probed < tally.to_probe:
        text = f"{tally.probed} of {tally.to_probe} files looked at, {text}"
    if tally.analyzed > tally.done:
        text += f", {tally.analyzed} analysed"
    text += f", {tally.failures} failed"
    if tally.ended:
        rate, left = tally.ended / tally.elapsed_s, tally.expected - tally.ended
        text += f", {rate * 3600:.1f} an hour, {in_words(left / rate)} to go"
    return f"{text}; {', '.join(map(in_line, tally.under_way))}" if tally.under_way else text


def _numbers(tally: Tally) -> dict[str, Any]:
    return {
        "files": tally.files,
        "done": tally.done,
        "skipped": tally.skipped,
        "left": tally.left,
        "failed": tally.by_reason,
        "written_bytes": tally.written_bytes,
        "seconds": {phase: round(spent, 3) for phase, spent in sorted(tally.seconds.items())},
        "idle_seconds": round(tally.idle_seconds, 3),
        "elapsed_s": round(tally.elapsed_s, 3),
    }
