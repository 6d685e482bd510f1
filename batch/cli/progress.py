"""Long work on stderr: how far it is, and what came of it, with the exit code that says so."""

import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from tqdm import tqdm

LINE_EVERY_S = 60.0
FAILED, USAGE, PARTIAL = 1, 2, 3
_QUIET = "sali-cache.quiet"


def _be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


quiet_option = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Say only warnings and errors on stderr.",
)


def is_quiet() -> bool:
    """Whether the command under way was asked to be."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def say(text: str) -> None:
    """A line on stderr that is no result, no warning and no error."""
    if not is_quiet():
        click.echo(text, err=True)


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Give a function that is told how much more is done.

    A bar on a terminal; elsewhere a plain line a minute.
    """
    if is_quiet():
        yield lambda more: None
        return
    if sys.stderr.isatty():
        with tqdm(
            total=total, desc=in_line(what), unit=unit, leave=False, file=sys.stderr, delay=0.2
        ) as bar:
            yield bar.update
        return
    done = 0
    started = printed = time.monotonic()

    def report(more: int) -> None:
        nonlocal done, printed
        done += more
        now = time.monotonic()
        if now - printed >= LINE_EVERY_S:
            printed = now
            rate = done / (now - started)
            to_go = in_words((total - done) / rate) if done else "unknown time"
            state = f"{done} of {total} {unit}, {rate * 60:,.1f} a minute, {to_go} to go"
            click.echo(f"{in_line(what)}: {state}", err=True)

    yield report


def in_line(name: object) -> str:
    """A name as part of a line of text: what would end the line or move in it is escaped."""
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in str(name)
    )


def in_words(seconds: float) -> str:
    """A length of time as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


@dataclass
class Summary:
    """What a command over several inputs did; its last line on stderr and its exit code.

    `deed` is what was done, in one word.
    """

    deed: str = "done"
    done: int = 0
    skipped: int = 0
    size_bytes: int = 0
    failures: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.perf_counter)

    def fail(self, message: str) -> None:
        self.failures.append(message)
        click.echo(f"error: {message}", err=True)

    def finish(self) -> None:
        """Print the summary; exit 1 if all inputs failed, 3 if some did."""
        failed = len(self.failures)
        counts = {self.deed: self.done, "skipped": self.skipped, "failed": failed}
        parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        seconds = time.perf_counter() - self.started_s
        say(f"{parts or f'0 {self.deed}'}; {self.size_bytes:,} bytes, {seconds:.1f} s")
        if self.failures:
            raise SystemExit(PARTIAL if self.done or self.skipped else FAILED)
