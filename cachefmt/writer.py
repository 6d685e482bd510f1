"""Write a cache file block by block; it appears under its name only when it is whole.

Knows numpy arrays, no torch. Needs a POSIX system.
"""

import dataclasses
import mmap
import os
from bisect import bisect_left
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt.files import CacheFileError, MappedTensors, naming
from cachefmt.header import Header
from cachefmt.layout import TensorSpec, data_offsets, header_bytes, tensor_specs
from cachefmt.tables import check_tables


class CacheWriter:
    """Context manager that fills a temporary file in the same folder and renames it.

    All sizes are known from the header, so rows may come in any order and in any blocks;
    the bytes of the file do not depend on it. Leaving without `finish` removes the temporary
    file; a killed process leaves it (`.{name}.{pid}.tmp`), never a file under the final name.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        """Nothing is written yet. The checksums of the header are not used."""
        self.path = Path(path)
        self.header = dataclasses.replace(header, checksums=None, header_sha256=None)
        self._specs = tensor_specs(header.shape)
        self._header_size = len(header_bytes(self.header))
        self._offsets = data_offsets(self._specs)
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self._specs}
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: int | None = None
        self._inode = -1
        self.size_bytes = self._header_size + sum(spec.size_bytes for spec in self._specs.values())
        self._failed = f"cannot write {self.size_bytes} bytes"

    def __enter__(self) -> Self:
        """Allocate the file to its full size; CacheFileError if the disk has no room for it."""
        with naming(self.path, self._failed), ExitStack() as opened:
            opened.callback(self._abandon)  # on KeyboardInterrupt too: allocating takes minutes
            # What lies there under our process id was left by a dead one: ids come again.
            self._temporary.unlink(missing_ok=True)
            self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._inode = os.fstat(self._file).st_ino
            os.posix_fallocate(self._file, 0, self.size_bytes)
            opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._abandon()

    def write(self, name: str, row: int, array: NDArray[Any]) -> None:
        """Write rows [row, row + len(array)) of a tensor of `tensor_specs`.

        Args:
            array: [rows, ...] in the dtype of the tensor; BF16 as uint16 or int16.

        Raises:
            ValueError: no such tensor, another dtype or shape, rows beyond its end, or rows
                that were written already.
            CacheFileError: the disk refused.
        """
        file = self._open_file()
        if name not in self._specs:
            raise ValueError(f"{self.path} has no tensor {name!r}")
        spec = self._specs[name]
        _check_block(name, spec, row, array)
        if array.size == 0:
            return
        _claim(name, self._written[name], row, row + len(array))
        start = self._header_size + self._offsets[name][0] + row * spec.row_bytes
        block = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with naming(self.path, self._failed):
            _write_all(file, block.data, start)

    def finish(self) -> None:
        """Check that all rows are there, write the checksums, sync and rename.

        Raises:
            CacheFileError: a row is missing, the tables break a rule of FORMAT.md, another
                writer took over the temporary file, or the disk refused.
        """
        file = self._open_file()
        for name, spec in self._specs.items():
            rows = spec.shape[0]
            got = sum(stop - start for start, stop in self._written[name])
            if spec.size_bytes and got != rows:
                raise CacheFileError(self.path, f"{name}: {got} of {rows} rows were written")
        with naming(self.path, self._failed), ExitStack() as opened:
            opened.callback(self._abandon)
            self._seal(file)
            if not self._is_ours():
                raise CacheFileError(self.path, f"another writer replaced {self._temporary.name}")
            os.replace(self._temporary, self.path)
            # The new name survives a power cut.
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, folder)
            os.fsync(folder)

    def _seal(self, file: int) -> None:
        # Not closed by hand: numpy's views of it keep it mapped as long as they live.
        mapped = mmap.mmap(file, self.size_bytes, access=mmap.ACCESS_READ)
        tensors = MappedTensors(self.path, mapped, self._specs)
        check_tables(self.header.shape, tensors.array)
        checksums = {name: tensors.digest(name) for name in self._specs}
        sealed = dataclasses.replace(self.header, checksums=checksums)
        _write_all(file, memoryview(header_bytes(sealed)), 0)
        os.fsync(file)

    def _open_file(self) -> int:
        if self._file is None:
            raise ValueError(f"{self.path}: the writer is not open")
        return self._file

    def _is_ours(self) -> bool:
        with suppress(FileNotFoundError):
            return os.stat(self._temporary).st_ino == self._inode
        return False

    def _abandon(self) -> None:
        if self._file is not None:
            if self._is_ours():
                self._temporary.unlink()
            os.close(self._file)
            self._file = None


def _check_block(name: str, spec: TensorSpec, row: int, array: NDArray[Any]) -> None:
    expected = spec.numpy_dtype
    accepted = (expected, np.dtype("<i2")) if spec.dtype == "BF16" else (expected,)
    if array.dtype not in accepted:
        raise ValueError(f"{name}: got {array.dtype}, expected {expected} for {spec.dtype}")
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:]:
        raise ValueError(f"{name}: got shape {array.shape}, expected [rows, *{spec.shape[1:]}]")
    if row < 0 or row + len(array) > spec.shape[0]:
        raise ValueError(
            f"{name}: rows {row} to {row + len(array)} do not fit its {spec.shape[0]} rows"
        )


def _claim(name: str, written: list[tuple[int, int]], start: int, stop: int) -> None:
    """Add [start, stop) to sorted, disjoint ranges; it joins the one that it goes on from."""
    at = bisect_left(written, (start, stop))
    if (at and written[at - 1][1] > start) or (at < len(written) and written[at][0] < stop):
        raise ValueError(f"{name}: rows {start} to {stop} were written in part already")
    if at and written[at - 1][1] == start:
        at -= 1
        start, _ = written.pop(at)
    written.insert(at, (start, stop))


def _write_all(file: int, block: memoryview, offset: int) -> None:
    while block:  # one pwrite takes at most 2 GiB on Linux
        count = os.pwrite(file, block, offset)
        block, offset = block[count:], offset + count
