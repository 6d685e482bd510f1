"""Write a cache file block by block; it appears under its name only when it is whole.

Knows numpy arrays, no torch. Needs a POSIX system.
"""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import numpy as np
import xxhash

from cachefmt.files import CacheFileError, naming, write_all
from cachefmt.header import Fidelity, Header
from cachefmt.key_bounds import KeyBounds
from cachefmt.layout import (
    COST,
    COST_SECONDS,
    INDEX,
    TABLES,
    basis_name,
    block_name,
    header_bytes,
    largest_sizes,
    reserved_bytes,
)
from cachefmt.reader import CacheFile
from cachefmt.tables import Tables


class CacheWriter:
    """Context manager that fills a temporary file in the same folder and renames it.

    Tensors come in the order of the file: all bases, each block's groups of layers, the index.
    Leaving without `finish` removes the temporary file; a killed process leaves it
    (`.{name}.{pid}.tmp`), never a file under the final name.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header, tables: Tables) -> None:
        """Nothing is written yet. Digests and fidelity of the header are not used.

        Raises:
            CacheFileError: the tables break a rule of FORMAT.md, or do not fit the header.
        """
        self.path = Path(path)
        self.header = dataclasses.replace(header, digests=None, header_sha256=None)
        with naming(self.path):
            tables.check(header.shape)
            if (tables.sample[: header.codec.text_tokens] >= 0).any():
                raise ValueError("codec.text_tokens are more than the text before all samples")
            self._largest = largest_sizes(header, tables)
            self._reserved = reserved_bytes(self.header, self._largest)
        self._tables = tables
        self._digests: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._end = self._reserved
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: int | None = None
        self._inode = -1
        self.size_bytes = self._reserved + sum(self._largest.values())
        """Of the finished file, at most; see `file_size`."""
        self._failed = f"cannot write {self.size_bytes} bytes"

    def __enter__(self) -> Self:
        """Begin the file; CacheFileError if the disk has no room for it, where that is known."""
        with naming(self.path, self._failed), ExitStack() as opened:
            opened.callback(self._abandon)  # on KeyboardInterrupt too: allocating takes minutes
            # What lies there under our process id was left by a dead one: ids come again.
            self._temporary.unlink(missing_ok=True)
            self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._inode = os.fstat(self._file).st_ino
            if self.header.codec.name == "plain":  # else its size is not known
                os.posix_fallocate(self._file, 0, self.size_bytes)
            self._append(COST, bytes(self._largest[COST]))
            self._append(TABLES, self._tables.pack())
            opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._abandon()

    def write_basis(self, group: int, data: bytes) -> None:
        """Append the basis of a group of layers.

        Raises:
            ValueError: another one is next, or it is larger than the header and tables allow.
            CacheFileError: the disk refused.
        """
        self._append_next(basis_name(group), data)

    def write_block(self, number: int, group: int, data: bytes) -> None:
        """As `write_basis`, of a block of a group of layers, as its codec encoded it."""
        self._append_next(block_name(number, group), data)

    def write_index(self, bounds: KeyBounds) -> None:
        """As `write_basis`, of the bounds of keys: behind all blocks, if the header has layers."""
        self._append_next(INDEX, bounds.pack(self.header.shape))

    def read_back(self) -> CacheFile:
        """The file as it will be found, opened before it has its name, so that it can be measured.

        Raises:
            CacheFileError: a tensor is missing, or the disk refused.
        """
        self._complete([0.0] * len(COST_SECONDS), None)
        return CacheFile.open(self._temporary)

    def finish(self, cost_seconds: Sequence[float], fidelity: Fidelity | None = None) -> None:
        """Check that all is there, write the header, sync and rename.

        Args:
            cost_seconds: spent to analyze, encode and prefill.
            fidelity: as measured while writing.

        Raises:
            CacheFileError: a tensor is missing, another writer took over the temporary file, or
                the disk refused.
        """
        file = self._complete(cost_seconds, fidelity)
        with naming(self.path, self._failed), ExitStack() as opened:
            opened.callback(self._abandon)
            os.fsync(file)
            if not self._is_ours():
                raise CacheFileError(self.path, f"another writer replaced {self._temporary.name}")
            os.replace(self._temporary, self.path)
            # The new name survives a power cut.
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, folder)
            os.fsync(folder)

    def _complete(self, cost_seconds: Sequence[float], fidelity: Fidelity | None) -> int:
        """Write what is known last: costs and the header; the file."""
        file = self._open_file()
        seconds = np.array(cost_seconds, "<f8")
        if seconds.nbytes != self._largest[COST] or not (
            np.isfinite(seconds).all() and (seconds >= 0).all()
        ):
            raise ValueError(f"{COST}: got {cost_seconds}")
        missing = [name for name in self._largest if name not in self._digests]
        if missing:
            raise CacheFileError(self.path, f"{missing[0]} was not written")
        self._digests[COST] = xxhash.xxh3_128_digest(seconds.tobytes())
        digests = b"".join(self._digests[name] for name in self._largest)
        header = dataclasses.replace(self.header, fidelity=fidelity, digests=digests)
        with naming(self.path, self._failed):
            write_all(file, seconds.tobytes(), self._reserved)
            write_all(file, header_bytes(header, self._sizes, self._reserved), 0)
            os.ftruncate(file, self._end)  # room was taken for the largest index
        return file

    def _append_next(self, name: str, data: bytes) -> None:
        self._open_file()
        following = list(self._largest)[len(self._sizes) :]
        if following[:1] != [name]:
            raise ValueError(f"{self.path}: got {name}, expected {following[:1]}")
        is_exact, most = self.header.codec.name == "plain" and name != INDEX, self._largest[name]
        if len(data) > most or (is_exact and len(data) != most):
            expected = f"{most}" if is_exact else f"{most} at most"
            raise ValueError(f"{self.path}: {name} has {len(data)} bytes, expected {expected}")
        with naming(self.path, self._failed):
            self._append(name, data)

    def _append(self, name: str, data: bytes) -> None:
        write_all(self._open_file(), data, self._end)
        self._digests[name] = xxhash.xxh3_128_digest(data)
        self._sizes[name] = len(data)
        self._end += len(data)

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
