"""One process at a time makes a file. Knows names, not what is made."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.atomic import write_errors

_LOOK_EVERY_S = 0.2


@contextmanager
def held(
    folder: Path,
    names: Iterable[str],
    report: Callable[[str], object],
    waiting: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Be the only process that makes what is called so in a folder; wait for one that does.

    A hidden file of each name is locked and removed at the end; the kernel gives the lock back
    however a process ends. On a file system without locks nobody waits.

    Args:
        report: is told once of which name another process is at work, before it is waited for.
        waiting: is called again and again meanwhile.

    Raises:
        JobError: the folder cannot be written.
    """
    with ExitStack() as locks:
        for name in sorted(set(names)):  # in one order: two processes never wait for each other
            locks.enter_context(_lock(folder / f".{name}.lock", report, waiting))
        yield


@contextmanager
def _lock(
    path: Path, report: Callable[[str], object], waiting: Callable[[], object]
) -> Iterator[None]:
    lock = _opened(path)
    try:
        while not _is_taken(lock, path, report, waiting):
            os.close(lock)
            lock = _opened(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _opened(path: Path) -> int:
    with write_errors(path):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _is_taken(
    lock: int, path: Path, report: Callable[[str], object], waiting: Callable[[], object]
) -> bool:
    """Lock an open file; False if who had it before removed it meanwhile."""
    if not _can_lock(lock):
        made = f"another process makes it in {path.parent}"
        report(f"{path.name[1:-5]}: {made}; waiting for its end")
        while not _can_lock(lock):
            waiting()
            time.sleep(_LOOK_EVERY_S)
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _can_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # there are no locks here
        return True
    return True
