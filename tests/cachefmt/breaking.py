"""Ways to break a cache file, and to see that it is refused."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachefmt import CacheFile, CacheFileError, Shape, tensor_specs
from cachefmt.layout import header_bytes
from tests.cachefmt.files import SHAPE, Arrays, join_file, make_arrays, make_header, split_file

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
    join_file(path, json.dumps(table).encode(), data)


def rewrite_header(path: Path, change: Callable[[Table], None]) -> None:
    """Change our header, and leave its digest, as a foreign writer might."""

    def change_metadata(table: Table) -> None:
        header = json.loads(table["__metadata__"]["sali-cache"])
        change(header)
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
        table["__metadata__"]["sali-cache"] = text

    rewrite_table(path, change_metadata)


def forge(
    path: Path, change: Callable[[Arrays], None] = lambda arrays: None, shape: Shape = SHAPE
) -> Path:
    """A file whose checksums are right, and whose tables or shape are not."""
    arrays = make_arrays()
    change(arrays)
    data = b"".join(arrays[name].tobytes() for name in tensor_specs(SHAPE))
    digests = {
        name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in tensor_specs(SHAPE)
    }
    first_bytes = header_bytes(dataclasses.replace(make_header(shape), checksums=digests))
    path.write_bytes(first_bytes + data)
    return path
