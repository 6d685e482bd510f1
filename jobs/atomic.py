"""Files that appear under their name whole or not at all. Knows no content."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        kind = NoSpaceError if error.errno in FULL else JobError
        raise kind(f"{path}: cannot be written: {error.strerror}") from error


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents; a JobError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{folder}: this folder cannot be made: {error.strerror}") from error


def move_into_place(source: Path, target: Path) -> None:
    """Give a finished, synced file its final name on the same file system, or raise a JobError."""
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the new name survives a power cut
        finally:
            os.close(folder)


def write_atomic(target: Path, content: bytes, staging: Path) -> None:
    """Write a file by way of a folder for unfinished ones, or raise a JobError."""
    unfinished = staging / target.name
    with write_errors(target), unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    move_into_place(unfinished, target)
