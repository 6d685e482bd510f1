"""Ways to break a cache file, and to see that it is refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from cachefmt import CacheFile, CacheFileError, Header, Tables
from cachefmt.layout import header_bytes, reserved_bytes
from cachefmt.sealing import lengthen, sealed, shorten
from tests.cachefmt.files import join_file, split_file

Table = dict[str, Any]


def opening_fails(path: Path) -> str:
    """The problem, once it is certain that the message begins with the file's name."""
    with pytest.raises(CacheFileError) as caught:
        CacheFile.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.problem


def verifying_fails(path: Path) -> str:
    with CacheFile.open(path) as cache, pytest.raises(CacheFileError) as caught:
        cache.verify()
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.problem


def rewrite_table(path: Path, change: Callable[[Table], None]) -> None:
    """Change the safetensors table and leave everything else."""
    json_bytes, data = split_file(path)
    table = json.loads(json_bytes)
    change(table)
    join_file(path, json.dumps(table, separators=(",", ":")).encode(), data)


def rewrite_header(path: Path, change: Callable[[Table], None]) -> None:
    """Change our header and seal it anew, as a foreign writer might."""

    def change_metadata(table: Table) -> None:
        header = header_in(table)
        change(header)
        version = header.pop("format", "")
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
        table["__metadata__"]["sali-cache"] = f"{version}:{shorten(text)}"

    rewrite_table(path, change_metadata)
    seal(path)


def header_in(table: Table) -> Table:
    """Our header in a safetensors table, and as `format` the version that stands before it."""
    version, text = table["__metadata__"]["sali-cache"].split(":", 1)
    return {**json.loads(lengthen(text, "sali-cache")), "format": version}


def seal(path: Path) -> None:
    """Make the header's digest right, whatever the header says."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    path.write_bytes(sealed(content[: 8 + length]) + content[8 + length :])


def forge(path: Path, header: Header, tensors: dict[str, bytes]) -> Path:
    """A file whose digests are right, whatever is in its tensors."""
    sizes = {name: len(data) for name, data in tensors.items()}
    digests = b"".join(xxhash.xxh3_128_digest(data) for data in tensors.values())
    first_bytes = header_bytes(
        replace(header, digests=digests), sizes, reserved_bytes(header, sizes)
    )
    path.write_bytes(first_bytes + b"".join(tensors.values()))
    return path


def tensors_of(path: Path) -> dict[str, bytes]:
    """All tensors of a file, in order."""
    json_bytes, data = split_file(path)
    table = json.loads(json_bytes)
    table.pop("__metadata__")
    return {name: data[slice(*entry["data_offsets"])] for name, entry in table.items()}


def forge_tables(path: Path, header: Header, tables: Tables) -> Path:
    """A file whose digests are right, and whose tables are these; `path` is whole before."""
    return forge(path, header, tensors_of(path) | {"tables": tables.pack()})
