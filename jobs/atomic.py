"""Files that appear under their name whole or not at all. Knows no content."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import JobError, NoSpaceError

FULL = (errno.ENOSPC, errno.EDQUOT)


_LONGEST_STEM_BYTES = 200
"""So that what a name gets behind and before it still fits the 255 bytes of most file systems."""


def fitting_stem(stem: str) -> str:
    """A stem for files that are named after another one: itself, or its start and its digest."""
    name = os.fsencode(stem)
    if len(name) <= _LONGEST_STEM_BYTES:
        return stem
    digest = hashlib.sha256(name).hexdigest()[:16]
    start = name[: _LONGEST_STEM_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{start}-{digest}"


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write into a NoSpaceError or JobError that names the file."""
    try:
        yield
    except OSError as error:
        what = f"{path}: cannot be written: {error.strerror}"
        if error.errno in FULL:
            raise NoSpaceError(f"{what}; make room and run the same command") from error
        raise JobError(what) from error


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents; a JobError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{folder}: this folder cannot be made: {error.strerror}") from error


def check_folder(folder: Path) -> None:
    """Raise a JobError if a folder for results could not be made or written; makes nothing."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise JobError(f"{folder}: this folder cannot be made: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        why = "a file system that is read-only" if is_read_only else "no permission"
        raise JobError(f"{there}: this folder cannot be written: {why}")


def move_into_place(source: Path, target: Path) -> None:
    """Give a finished, synced file its final name on the same file system, or raise a JobError."""
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        sync_folder(target.parent)


def publish(source: Path, target: Path) -> bool:
    """Give a finished, synced file a name that nobody has taken, on the same file system.

    Of several processes that want it one gets True; the file of the others is removed, and they
    find the first one's under the name. A JobError if the system refuses.
    """
    with write_errors(target):
        try:
            os.link(source, target)  # a rename would replace what is there
        except FileExistsError:
            return False
        finally:
            source.unlink()
        sync_folder(target.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Let new names in a folder survive a power cut."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file by way of a hidden one beside it, or raise a JobError."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write(unfinished, target, content)
    finally:
        with suppress(OSError):  # perhaps no name is possible here, and that is being told
            unfinished.unlink()


def write_atomic(target: Path, content: bytes, staging: Path) -> None:
    """Write a file by way of a folder for unfinished ones, or raise a JobError."""
    _write(staging / target.name, target, content)


def _write(unfinished: Path, target: Path, content: bytes) -> None:
    with write_errors(target), unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    move_into_place(unfinished, target)
