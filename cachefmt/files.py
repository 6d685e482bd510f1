"""What reading and writing share: the error about a file, and exact reads and writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CacheFileError(Exception):
    """A cache file is broken, foreign or unfinished; the message begins with its name."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        # Both go into args, so that the error survives pickling between processes.
        super().__init__(os.fspath(path), problem)
        self.path = Path(path)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@contextmanager
def naming(path: Path, failed: str = "cannot be read") -> Iterator[None]:
    """Turn errors about a file, or about what it holds, into one that begins with its name."""
    try:
        yield
    except ValueError as error:
        raise CacheFileError(path, str(error)) from error
    except OSError as error:
        raise CacheFileError(path, f"{failed}: {error.strerror or error}") from error


def read_exactly(file: int, size_bytes: int, offset: int) -> bytes:
    """Bytes of an open file, and nothing else of it is read; OSError if it ends before."""
    # Linux reads megabytes ahead (6.18: all of a file of 7 MB for its header). macOS has no such
    # advice.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    parts = []
    while size_bytes:  # one pread gives at most 2 GiB on Linux
        part = os.pread(file, size_bytes, offset)
        if not part:
            raise OSError("the file was cut short")
        parts.append(part)
        size_bytes, offset = size_bytes - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write to an open file."""
    rest = memoryview(data)
    while rest:  # one pwrite takes at most 2 GiB on Linux
        count = os.pwrite(file, rest, offset)
        rest, offset = rest[count:], offset + count
