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


@contextmanager
def naming(path: Path, failed: str = "cannot be read") -> Iterator[None]:
    """Turn errors about a file, or about what it holds, into one that begins with its name."""
    try:
        yield
    except ValueError as error:
        raise CacheFileError(path, str(error)) from error
    except OSError as error:
        raise CacheFileError(path, f"{failed}: {error.strerror or error}") from error


def read_into(file: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from an open file, and read nothing else of it; OSError if it ends before."""
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


class MappedTensors:
    """The tensors of one mapped file, until `close`; arrays stay valid as long as they live.

    Methods raise ValueError where there is no such tensor, or once it is closed.
    """

    def __init__(self, path: Path, mapped: mmap.mmap, specs: dict[str, TensorSpec]) -> None:
        self.path = path
        self.size_bytes = len(mapped)
        self._map: mmap.mmap | None = mapped
        self._data_start = self.size_bytes - sum(spec.size_bytes for spec in specs.values())
        self._specs = specs
        self._offsets = data_offsets(specs)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order in which their bytes stand in the file."""
        return list(self._specs)

    def close(self) -> None:
        """Let go of the file. Arrays and tensors taken from it stay valid and keep it mapped."""
        self._map = None

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) of a tensor, to its end without stop: a read-only view, no copy.

        BF16 comes as its bits in uint16. ValueError also where there are no such rows.
        """
        spec = self._spec(name)
        stop = spec.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= spec.shape[0]:
            raise ValueError(f"{name} has {spec.shape[0]} rows, got [{start}, {stop})")
        flat = np.frombuffer(
            self._mapped,
            dtype=spec.numpy_dtype,
            count=(stop - start) * spec.row_bytes // spec.numpy_dtype.itemsize,
            offset=self._offset(name, start),
        )
        rows = flat.reshape(stop - start, *spec.shape[1:])
        rows.flags.writeable = False
        return rows

    def dtype(self, name: str) -> str:
        """By safetensors' name."""
        return self._spec(name).dtype

    def read_ahead(self) -> None:
        """Ask the system to read the whole file in the background; does not wait.

        Source: measured on Linux 6.18 with 179 MB and a fast disk. Without it the kernel reads
        what is touched, and a little more, while the toucher waits: 58-250 ms; with it 70 ms.
        """
        self._mapped.madvise(mmap.MADV_WILLNEED)

    def release(self) -> None:
        """Give back the memory of what was read so far; arrays stay valid and read it again."""
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's bytes."""
        start, stop = (self._data_start + offset for offset in self._offsets[name])
        digest = hashlib.sha256()
        with memoryview(self._mapped) as view:
            for chunk in range(start, stop, _HASH_CHUNK_BYTES):
                digest.update(view[chunk : min(chunk + _HASH_CHUNK_BYTES, stop)])
        return digest.hexdigest()

    @property
    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError(f"{self.path} is closed")
        return self._map

    def _offset(self, name: str, row: int) -> int:
        return self._data_start + self._offsets[name][0] + row * self._specs[name].row_bytes

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._specs:
            raise ValueError(f"{self.path} has no tensor {name!r}")
        return self._specs[name]
