"""Progress of long work on stderr: a bar on a terminal, a plain line a minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from tqdm import tqdm

LINE_EVERY_S = 60.0


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Give a function that is told how much more is done."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=unit, leave=False, file=sys.stderr) as bar:
            yield bar.update
        return
    done = 0
    started = said = time.monotonic()

    def tell(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            left_s = (now - started) / done * (total - done) if done else float("nan")
            click.echo(f"{what}: {done} of {total} {unit}, {left_s:.0f} s to go", err=True)

    yield tell
