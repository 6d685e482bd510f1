"""Read a cache file: a memory map behind checks that name what is wrong.

Knows numpy, no torch. Needs a POSIX system. A file must not be cut short while it is open
(writers here never do, they rename): touching the lost pages would kill the process.
"""

import hashlib
import mmap
import os
import struct
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt.files import CacheFileError, MappedTensors, naming, read_into
from cachefmt.header import Header
from cachefmt.layout import (
    LENGTH_BYTES,
    MAX_JSON_BYTES,
    METADATA_KEY,
    TensorSpec,
    header_digest,
    tensor_count,
    tensor_specs,
    tensor_table,
)
from cachefmt.strict_json import load_strict
from cachefmt.tables import check_cost, check_tables

_NORESERVE_SYSTEMS = (("Linux", "x86_64"), ("Linux", "aarch64"))
_MAP_NORESERVE = 0x4000 if (os.uname().sysname, os.uname().machine) in _NORESERVE_SYSTEMS else 0
"""Python 3.11 does not name it. Source: Linux, asm-generic/mman-common.h."""


class CacheFile(MappedTensors):
    """An open cache file. Use `CacheFile.open`, best as a context manager."""

    def __init__(
        self, path: Path, header: Header, file: int, mapped: mmap.mmap, specs: dict[str, TensorSpec]
    ) -> None:
        super().__init__(path, mapped, specs)
        self.header = header
        self._file = file
        self._close_file = weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a file and check its header, its table of tensors and its length.

        The tensors' content is not read: that is `verify`.

        Raises:
            CacheFileError: the file is missing, truncated, foreign, of a newer format, or its
                header was changed.
        """
        path = Path(path)
        with naming(path, "cannot be opened"), ExitStack() as opened:
            file = os.open(path, os.O_RDONLY)
            opened.callback(os.close, file)
            mapped = opened.enter_context(_map(file))
            first_bytes, table = _read_table(file, len(mapped))
            header = _read_header(table)
            specs = _check_table(table, header)
            expected = len(first_bytes) + sum(spec.size_bytes for spec in specs.values())
            if len(mapped) != expected:
                problem = "is truncated" if len(mapped) < expected else "is too long"
                _refuse(f"{problem}: {len(mapped)} bytes, its header describes {expected}")
            if header_digest(first_bytes) != header.header_sha256:
                _refuse("the header does not match its header_sha256: it was changed or damaged")
            opened.pop_all()
        return cls(path, header, file, mapped, specs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        super().close()
        self._close_file()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """As `array`, but a copy: these bytes are read from the file now, and no others.

        What is not mapped does not fill the memory, and nothing is read ahead of it.
        """
        rows = self.array(name, start, stop)  # a view of the map: nothing is touched
        copy = np.empty(rows.shape, rows.dtype)
        with naming(self.path):
            read_into(self._file, copy.reshape(-1).view(np.uint8).data, self._offset(name, start))
        return copy

    def read_verified(self, name: str) -> NDArray[Any]:
        """A whole tensor as by `read`, compared with its checksum."""
        tensor = self.read(name)
        self._check_digest(name, hashlib.sha256(tensor.tobytes()).hexdigest())
        return tensor

    def verify_tables(self) -> None:
        """As `verify`, of token.*, sample.* and index.*, which readers of rows rely on."""
        relied_on = ("token.", "sample.", "index.")
        self._verify([name for name in self.names if name.startswith(relied_on)])

    def verify(self) -> None:
        """Read everything: checksum of each tensor, then the rules of the tables.

        Raises:
            CacheFileError: names the first tensor that is damaged or breaks a rule.
        """
        self._verify(self.names)

    def _check_digest(self, name: str, digest: str) -> None:
        if digest != (self.header.checksums or {})[name]:
            raise CacheFileError(
                self.path, f"{name} does not match its checksum: it was changed or damaged"
            )

    def _verify(self, names: list[str]) -> None:
        for name in names:
            self._check_digest(name, self.digest(name))
        with naming(self.path):
            check_tables(self.header.shape, self.array)


def read_cost(cache: CacheFile) -> NDArray[np.float64]:
    """Seconds spent to analyze, encode and prefill, [3], read from a file and checked."""
    seconds = cache.read_verified("cost.seconds")
    with naming(cache.path):
        check_cost(seconds)
    return seconds


def _map(file: int) -> mmap.mmap:
    size = os.fstat(file).st_size
    if size == 0:
        _refuse("is empty")
    # Private and writable in memory only: torch warns about read-only buffers, and a stray write
    # changes a page of this process instead of ending it. NORESERVE: the kernel need not find
    # room for copies of a file larger than the memory.
    flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(file, size, flags=flags, prot=access)


def _read_table(file: int, size_bytes: int) -> tuple[bytes, dict[str, Any]]:
    """The first bytes (length, JSON, padding) and the JSON object in them."""
    if size_bytes < LENGTH_BYTES:
        _refuse(f"is truncated: {size_bytes} bytes, the header's length alone has {LENGTH_BYTES}")
    length = bytearray(LENGTH_BYTES)
    read_into(file, memoryview(length), 0)
    (json_bytes,) = struct.unpack("<Q", length)
    if json_bytes > MAX_JSON_BYTES:
        _refuse(f"is no safetensors file, or damaged: a header of {json_bytes} bytes")
    end = LENGTH_BYTES + json_bytes
    if size_bytes < end:
        _refuse(f"is truncated in its header: {size_bytes} bytes, the header ends at {end}")
    first_bytes = bytearray(end)
    read_into(file, memoryview(first_bytes), 0)
    try:
        table = load_strict(bytes(first_bytes[LENGTH_BYTES:]))
    except ValueError as error:
        raise ValueError(f"is no safetensors file, or damaged: its header: {error}") from error
    if not isinstance(table, dict):
        _refuse(f"is no safetensors file: its header is a JSON {type(table).__name__}")
    return bytes(first_bytes), table


def _read_header(table: dict[str, Any]) -> Header:
    """Take our metadata out of the table of tensors; what is left are tensors."""
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        _refuse(
            f"is a safetensors file, but no cache: its metadata has no key {METADATA_KEY!r}; "
            "`batch prefill` writes caches"
        )
    foreign = sorted(set(metadata) - {METADATA_KEY})
    if foreign:
        _refuse(f"unknown metadata key {foreign[0]!r}, only {METADATA_KEY!r} is known")
    if not isinstance(metadata[METADATA_KEY], str):
        _refuse(f"metadata key {METADATA_KEY!r} must be a string of JSON")
    return Header.from_json(metadata[METADATA_KEY])


def _check_table(table: dict[str, Any], header: Header) -> dict[str, TensorSpec]:
    """The specs of the shape, that the table of tensors and the checksums' names must fit."""
    # Counted first: a header may claim so many layers that naming them takes for ever.
    count = tensor_count(header.shape)
    if count > len(table) + 1_000:
        _refuse(f"has {len(table)} tensors, its shape asks for {count}")
    specs = tensor_specs(header.shape)
    expected = tensor_table(specs)
    for kind, names in (("tensor", table), ("checksum of", header.checksums or {})):
        for name in expected:
            if name not in names:
                _refuse(f"missing {kind} {name}")
        for name in names:
            if name not in expected:
                _refuse(f"unknown {kind} {name!r}")
    for name, entry in expected.items():
        got = table[name]
        if not isinstance(got, dict) or set(got) != set(entry):
            _refuse(f"{name}: its entry must have the keys {sorted(entry)}, got {got!r}")
        for key, value in entry.items():
            if got[key] != value:
                _refuse(f"{name}: wrong {key}: got {got[key]!r}, expected {value!r}")
    return specs


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
