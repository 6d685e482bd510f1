"""One process at a time makes a file. Knows names, not what is made."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.atomic import write_errors


@contextmanager
def held(folder: Path, names: Iterable[str], report: Callable[[str], object]) -> Iterator[None]:
    """Be the only process that makes what is called so in a folder; wait for one that does.

    A hidden file of each name is locked and removed at the end; the kernel gives the lock back
    however a process ends. On a file system without locks nobody waits.

    Args:
        report: is told once of which name another process is at work, before it is waited for.

    Raises:
        JobError: the folder cannot be written.
    """
    with ExitStack() as locks:
        for name in sorted(set(names)):  # in one order: two processes never wait for each other
            locks.enter_context(_lock(folder / f".{name}.lock", report))
        yield


@contextmanager
def _lock(path: Path, report: Callable[[str], object]) -> Iterator[None]:
    lock = _opened(path)
    try:
        while not _is_taken(lock, path, report):
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


def _is_taken(lock: int, path: Path, report: Callable[[str], object]) -> bool:
    """Lock an open file; False if who had it before removed it meanwhile."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report(f"{path.name[1:-5]}: another process makes it in {path.parent}; waiting for its end")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # there are no locks here
        return True
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
