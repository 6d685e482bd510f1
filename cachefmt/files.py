"""What reading and writing share: the error about a file, exact reads, tensors over a map of it."""

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachefmt.layout import TensorSpec, data_offsets

_HASH_CHUNK_BYTES = 1 << 24


class CacheFileError(Exception):
    """A cache file is broken, foreign or unfinished; the message begins with its name."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        # Both go into args, so that the error survives pickling between processes.
        super().__init__(os.fspath(path), problem)
        self.path = Path(path)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def read_into(file: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from an open file, and read nothing else of it.

    Raises:
        OSError: it cannot be read, or ends before the buffer does.
    """
    # Linux reads megabytes ahead, of maps too (6.18: all of a file of 7 MB for its header).
    # macOS has no such advice.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    while buffer:  # one pread gives at most 2 GiB on Linux
        count = os.preadv(file, [buffer], offset)
        if count == 0:
            raise OSError("the file was cut short")
        buffer, offset = buffer[count:], offset + count
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_NORMAL)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a ValueError about what a file holds into one that begins with its name."""
    try:
        yield
    except ValueError as error:
        raise CacheFileError(path, str(error)) from error


class MappedTensors:
    """The tensors of one mapped file. Arrays stay valid as long as they are referenced."""

    def __init__(self, mapped: mmap.mmap, data_start: int, specs: dict[str, TensorSpec]) -> None:
        self._mapped = mapped
        self._data_start = data_start
        self._specs = specs
        self._offsets = data_offsets(specs)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._specs)

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read-only rows [start, stop) of a tensor, to its end without stop.

        Raises:
            ValueError: no such tensor, or not such rows.
        """
        spec = self._spec(name)
        stop = spec.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= spec.shape[0]:
            raise ValueError(f"{name} has {spec.shape[0]} rows, got [{start}, {stop})")
        flat = np.frombuffer(
            self._mapped,
            dtype=spec.numpy_dtype,
            count=(stop - start) * spec.row_bytes // spec.numpy_dtype.itemsize,
            offset=self.offset(name, start),
        )
        rows = flat.reshape(stop - start, *spec.shape[1:])
        rows.flags.writeable = False
        return rows

    def offset(self, name: str, row: int) -> int:
        """Where a row of a tensor begins in the file, bytes.

        Raises:
            ValueError: no such tensor.
        """
        return self._data_start + self._offsets[name][0] + row * self._spec(name).row_bytes

    def dtype(self, name: str) -> str:
        """Dtype of a tensor, by safetensors' name.

        Raises:
            ValueError: no such tensor.
        """
        return self._spec(name).dtype

    def read_ahead(self) -> None:
        """Ask the system to read the file in the background.

        Source: measured on Linux 6.18 with 179 MB and a fast disk. Without it the kernel reads
        what is touched, and a little more, while the toucher waits: 58-250 ms; with it 70 ms.
        """
        self._mapped.madvise(mmap.MADV_WILLNEED)

    def release(self) -> None:
        """Give back the memory of what was read; touched again, it is read again."""
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's bytes."""
        start, stop = (self._data_start + offset for offset in self._offsets[name])
        digest = hashlib.sha256()
        with memoryview(self._mapped) as view:
            for chunk in range(start, stop, _HASH_CHUNK_BYTES):
                digest.update(view[chunk : min(chunk + _HASH_CHUNK_BYTES, stop)])
        return digest.hexdigest()

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._specs:
            raise ValueError(f"no tensor {name!r}")
        return self._specs[name]
