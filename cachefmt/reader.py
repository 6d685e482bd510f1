"""Read a cache file in parts, behind checks that name what is wrong.

Knows numpy, no torch. Needs a POSIX system.
"""

import dataclasses
import itertools
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachefmt.files import CacheFileError, naming, read_exactly
from cachefmt.header import Header
from cachefmt.key_bounds import KeyBounds
from cachefmt.layout import (
    COST,
    INDEX,
    LENGTH_BYTES,
    MAX_JSON_BYTES,
    METADATA_KEY,
    TABLES,
    basis_name,
    block_name,
    largest_sizes,
    tensor_count,
    tensor_entry,
    tensor_names,
)
from cachefmt.sealing import SEAL_KEY, Seal, lengthen, unsealing, versioned
from cachefmt.strict_json import load_strict
from cachefmt.tables import Tables


class _Place(NamedTuple):
    """Where the bytes of a tensor are in a file, and their digest."""

    start: int
    size_bytes: int
    digest: bytes


class CacheFile:
    """An open cache file. Use `CacheFile.open`, best as a context manager.

    Whatever it reads it compares with its digest. Methods raise CacheFileError where the file is
    damaged or cannot be read, and ValueError once it is closed.
    """

    def __init__(self, path: Path, file: int, header: Header, places: dict[str, _Place]) -> None:
        self.path = path
        self.header = header
        self._places = places
        self._file: int | None = file
        self._close_file = weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a file and check its header, its table of tensors and its length.

        The tensors' content is not read: that is `verify`.

        Raises:
            CacheFileError: the file is missing, truncated, foreign, of another format, or its
                header was changed.
        """
        path = Path(path)
        with naming(path, "cannot be opened"), ExitStack() as opened:
            file = os.open(path, os.O_RDONLY)
            opened.callback(os.close, file)
            size_bytes = os.fstat(file).st_size
            first_bytes, table = read_table(file, size_bytes)
            metadata = _take_metadata(table)
            with unsealing(first_bytes):
                version, text = versioned(metadata, METADATA_KEY)
                header = Header.from_json(lengthen(text, METADATA_KEY), version)
                sizes = _tensor_sizes(table, header)
                seal = Seal.unpack(metadata[SEAL_KEY], len(sizes))
            starts = itertools.accumulate(sizes.values(), initial=len(first_bytes))
            places = {
                name: _Place(start, sizes[name], seal.digest(number))
                for number, (name, start) in enumerate(zip(sizes, starts, strict=False))
            }
            expected = max(place.start + place.size_bytes for place in places.values())
            if size_bytes != expected:
                problem = "is truncated" if size_bytes < expected else "is too long"
                _refuse(f"{problem}: {size_bytes} bytes, its header describes {expected}")
            opened.pop_all()
        header = dataclasses.replace(header, **seal._asdict())
        return cls(path, file, header, places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._close_file()
        self._file = None

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order in which their bytes stand in the file."""
        return list(self._places)

    @property
    def size_bytes(self) -> int:
        last = self._places[self.names[-1]]
        return last.start + last.size_bytes

    @property
    def header_size_bytes(self) -> int:
        """Bytes before the first tensor."""
        return self._places[COST].start

    def tensor_bytes(self, name: str) -> int:
        """Bytes of a tensor by its name."""
        return self._places[name].size_bytes

    @cached_property
    def tables(self) -> Tables:
        """What each sample and token is: read, checked, and kept."""
        with naming(self.path):
            tables = Tables.unpack(self._read(TABLES), self.header.shape)
            tables.check(self.header.shape)
            if (tables.sample[: self.header.codec.text_tokens] >= 0).any():
                _refuse("codec.text_tokens are more than the text before all samples")
        return tables

    @cached_property
    def index(self) -> KeyBounds | None:
        """Bounds of the keys of each stored sample: read, checked, and kept; None without."""
        if not self.header.shape.index_layers:
            return None
        with naming(self.path):
            return KeyBounds.unpack(self._read(INDEX), self.header.shape)

    @property
    def cost_seconds(self) -> NDArray[np.float64]:
        """Seconds spent to analyze, encode and prefill, [3]."""
        seconds = np.frombuffer(self._read(COST), "<f8")
        if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
            raise CacheFileError(self.path, f"{COST}: is negative or not finite")
        return seconds

    @cached_property
    def blocks(self) -> list[range]:
        """The rows of each block, whatever its group of layers."""
        codec = self.header.codec
        return self.tables.blocks(codec.block_samples, codec.text_tokens)

    def block(self, number: int, group: int) -> bytes:
        """Bytes of a block of a group of layers, for the codec of the header."""
        return self._read(block_name(number, group))

    def basis(self, group: int) -> bytes:
        """Bytes of the basis of a group of layers; ValueError if the file has none."""
        return self._read(basis_name(group))

    @contextmanager
    def decoding(self, name: str, group: int) -> Iterator[None]:
        """Turn the error of a codec about a group's block or basis into one that names it."""
        try:
            yield
        except ValueError as error:
            layers = self.header.groups()[group]
            raise CacheFileError(
                self.path,
                f"{name} (layers {layers.start} to {layers.stop - 1}) cannot be decoded: {error}",
            ) from error

    def verify(self) -> None:
        """Read everything: digest of each tensor, then the rules of FORMAT.md; decodes no rows.

        Raises:
            CacheFileError: names the first tensor that is damaged or breaks a rule.
        """
        for name in self.names:
            self._read(name)
        _ = self.cost_seconds, self.index
        if self.header.codec.name == "plain":
            for name, expected in largest_sizes(self.header, self.tables).items():
                if name not in (TABLES, INDEX) and self._places[name].size_bytes != expected:
                    raise CacheFileError(
                        self.path,
                        f"{name} has {self._places[name].size_bytes} bytes, expected {expected}",
                    )
        _ = self.tables

    def _read(self, name: str) -> bytes:
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        if name not in self._places:
            raise ValueError(f"{self.path} has no tensor {name!r}")
        place = self._places[name]
        with naming(self.path):
            data = read_exactly(self._file, place.size_bytes, place.start)
        if xxhash.xxh3_128_digest(data) != place.digest:
            raise CacheFileError(
                self.path, f"{name} does not match its digest: it was changed or damaged"
            )
        return data


def read_table(file: int, size_bytes: int) -> tuple[bytes, dict[str, Any]]:
    """The first bytes (length, JSON, padding) and the JSON object in them."""
    if size_bytes == 0:
        _refuse("is empty")
    if size_bytes < LENGTH_BYTES:
        _refuse(f"is truncated: {size_bytes} bytes, the header's length alone has {LENGTH_BYTES}")
    (json_bytes,) = struct.unpack("<Q", read_exactly(file, LENGTH_BYTES, 0))
    if json_bytes > MAX_JSON_BYTES:
        _refuse(f"is no safetensors file, or damaged: a header of {json_bytes} bytes")
    end = LENGTH_BYTES + json_bytes
    if size_bytes < end:
        _refuse(f"is truncated in its header: {size_bytes} bytes, the header ends at {end}")
    first_bytes = read_exactly(file, end, 0)
    try:
        table = load_strict(first_bytes[LENGTH_BYTES:])
    except ValueError as error:
        raise ValueError(f"is no safetensors file, or damaged: its header: {error}") from error
    if not isinstance(table, dict):
        _refuse(f"is no safetensors file: its header is a JSON {type(table).__name__}")
    return first_bytes, table


def _take_metadata(table: dict[str, Any]) -> dict[str, Any]:
    """Take our metadata out of the table of tensors; what is left are tensors."""
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        _refuse(
            f"is a safetensors file, but no cache: its metadata has no key {METADATA_KEY!r}; "
            "`batch prefill` writes caches"
        )
    return metadata


def _tensor_sizes(table: dict[str, Any], header: Header) -> dict[str, int]:
    """Bytes of each tensor in the order of the file, once the table is that of the header."""
    # Counted first: a header may claim so many tensors that naming them takes for ever.
    count = tensor_count(header)
    if count > len(table) + 1_000:
        _refuse(f"has {len(table)} tensors, its header asks for {count}")
    names = tensor_names(header)
    for name in names:
        if name not in table:
            _refuse(f"missing tensor {name}")
    for name in table.keys() - set(names):
        _refuse(f"unknown tensor {name!r}")
    sizes, offset = {}, 0
    for name in names:
        sizes[name] = _entry_bytes(name, table[name], offset)
        offset += sizes[name]
    return sizes


def _entry_bytes(name: str, entry: object, offset: int) -> int:
    """Bytes of a tensor that begins at an offset of the data, by its entry in the table."""
    keys = sorted(tensor_entry(name, 0, 0))
    if not isinstance(entry, dict) or sorted(entry) != keys:
        _refuse(f"{name}: its entry must have the keys {keys}, got {entry!r}")
    found = entry["shape"]
    if not isinstance(found, list) or len(found) != 1 or type(found[0]) is not int or found[0] < 0:
        _refuse(f"{name}: its shape must be one number, got {found!r}")
    size_bytes = found[0] * (np.dtype("<f8").itemsize if name == COST else 1)
    for key, value in tensor_entry(name, offset, size_bytes).items():
        if repr(entry[key]) != repr(value):  # to ==, False is 0
            _refuse(f"{name}: wrong {key}: got {entry[key]!r}, expected {value!r}")
    return size_bytes


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
