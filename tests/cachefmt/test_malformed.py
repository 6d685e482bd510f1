"""Thousands of malformed headers and blocks are refused, and no large memory is taken for them.

Digests find accidents. These files are what somebody might build on purpose: everything is sealed
again after it was changed.
"""

import random
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cachefmt import CacheFile, CacheFileError
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt, plain
from cachefmt.codecs.symbols import DecodeError, compress, decompress
from cachefmt.layout import block_name
from tests.cachefmt.breaking import forge, rewrite_header, rewrite_table, seal, tensors_of
from tests.cachefmt.files import KLT, join_file, make_header, split_file
from tests.cachefmt.test_golden_cache import GOLDEN_SHAPE, KLT_GOLDEN, PLAIN_GOLDEN

MOST_BYTES = 60_000_000
"""For files of 3 KB."""
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**12, 10**30, 10**400, -(10**20)),
    *(0.5, -0.0, 1e308, "", "x", "F32", "7" * 64, "A" * 10_000, [], [1], [10**12], {}, {"a": 1}),
)


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Fail if much memory was taken at any time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    kilo = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * kilo < MOST_BYTES


def read_all(path: Path) -> bool:
    """Whether a file is taken for whole; what it holds is then read, or refused."""
    with refusing(path) as refused, CacheFile.open(path) as cache:
        cache.verify()
        for number, rows in enumerate(cache.blocks):
            for group, layers in enumerate(cache.header.groups()):
                with cache.decoding(block_name(number, group), group):
                    decode(cache, number, group, rows, len(layers))
    return not refused


@contextmanager
def refusing(path: Path) -> Iterator[list[str]]:
    """Collects the error that names the file; any other goes on."""
    refused: list[str] = []
    try:
        yield refused
    except CacheFileError as error:
        refused.append(str(error))
    assert all(message.startswith(f"{path}: ") for message in refused)


def decode(cache: CacheFile, number: int, group: int, rows: range, layers: int) -> None:
    shape, codec = cache.header.shape, cache.header.codec
    data = cache.block(number, group)
    if codec.name == "plain":
        plain.decode(data, shape, layers=layers, counts=cache.tables.counts(rows))
    elif codec.calibration is None:
        basis = bases.unpack(cache.basis(group), (layers, 2, shape.heads, shape.head_dim))
        place = cache.tables.places(shape)[rows.start : rows.stop]
        klt.decode(data, basis, place=place, dtype=torch.float16)


def spots(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something can be changed."""
    if not isinstance(value, dict | list):
        return []
    found = []
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        found += [(*at, key), *spots(one, (*at, key))]
    return found


def change_one(value: Any, drawn: random.Random) -> None:
    """Replace, remove or double one thing somewhere in a JSON value."""
    *way, last = drawn.choice(spots(value))
    for key in way:
        value = value[key]
    how = drawn.randrange(8)
    if how == 0:
        del value[last]
    elif how == 1 and isinstance(value, dict):
        value[drawn.choice(["x", "layers", "shape", "block.00001.00"])] = value[last]
    elif isinstance(value[last], int) and how < 5:
        value[last] += drawn.choice([-1, 1, 8, 1000, 10**9])
    else:
        value[last] = drawn.choice(JUNK)


def taken(path: Path, content: bytes, times: int, change: Callable[[Path], None]) -> int:
    found = 0
    for _ in range(times):
        path.write_bytes(content)
        change(path)
        found += read_all(path)
    return found


@pytest.mark.parametrize("golden", [PLAIN_GOLDEN, KLT_GOLDEN])
def test_malformed_headers_are_refused(tmp_path: Path, golden: Path) -> None:
    drawn = random.Random(0)

    def change(path: Path) -> None:
        rewrite_header(path, lambda header: change_one(header, drawn))

    harmless = taken(tmp_path / "x", golden.read_bytes(), 300, change)
    assert 0 < harmless < 150  # names, versions, costs: whatever they are


@pytest.mark.parametrize("golden", [PLAIN_GOLDEN, KLT_GOLDEN])
def test_malformed_tables_of_tensors_are_refused(tmp_path: Path, golden: Path) -> None:
    drawn = random.Random(1)

    def change(path: Path) -> None:
        def change_tensors(table: dict[str, Any]) -> None:
            metadata = table.pop("__metadata__")
            change_one(table, drawn)
            table["__metadata__"] = metadata

        rewrite_table(path, change_tensors)
        seal(path)

    # The same again, as 1 for 1, changes nothing.
    assert taken(tmp_path / "x", golden.read_bytes(), 100, change) < 5


def test_malformed_json_is_refused(tmp_path: Path) -> None:
    drawn = random.Random(2)
    json_bytes, data = split_file(PLAIN_GOLDEN)

    def change(path: Path) -> None:
        text = bytearray(json_bytes)
        for _ in range(drawn.randint(1, 4)):
            at = drawn.randrange(len(text))
            cut = drawn.randint(0, 30)
            text[at : at + cut] = drawn.choice([b"", b"{", b'"', b"[1,", b"\\u0000", b"9" * 40])
        join_file(path, bytes(text), data)
        seal(path)

    assert taken(tmp_path / "x", b"", 200, change) < 5


def mutated(data: bytes, drawn: random.Random) -> bytes:
    """Bytes that were changed at some positions, cut, or lengthened."""
    changed = bytearray(data)
    for _ in range(drawn.randint(1, 3)):
        changed[drawn.randrange(len(changed))] = drawn.choice(
            [0, 1, 127, 255, drawn.randrange(256)]
        )
    how = drawn.randrange(6)
    cut = drawn.randrange(len(changed))
    return bytes(changed[:cut] if how == 0 else changed + changed[cut:] if how == 1 else changed)


@pytest.mark.parametrize("name", ["tables", "index", "basis.00", "block.00000.00"])
def test_malformed_tensors_are_refused_or_are_rows(tmp_path: Path, name: str) -> None:
    drawn = random.Random(3)
    with CacheFile.open(KLT_GOLDEN) as cache:
        header, tensors = cache.header, tensors_of(KLT_GOLDEN)

    def change(path: Path) -> None:
        forge(path, header, tensors | {name: mutated(tensors[name], drawn)})

    taken(tmp_path / "x", b"", 250, change)


def test_frames_are_refused_that_claim_more_than_header_and_tables_allow(tmp_path: Path) -> None:
    with CacheFile.open(KLT_GOLDEN) as cache:
        header, tensors, size = cache.header, tensors_of(KLT_GOLDEN), cache.size_bytes
    bomb = compress([bytes(100_000_000)], 3)
    assert len(bomb) < 5 * size
    block, basis = tensors["block.00000.00"], tensors["basis.00"]
    for name, data in (
        ("tables", bomb),
        ("index", bomb),
        ("block.00000.00", block[:22] + bomb),
        ("block.00000.00", b"\xff" * 4 + block[4:22] + bomb),
        ("basis.00", basis[: basis.index(b"\x28\xb5\x2f\xfd")] + bomb),
    ):
        forge(tmp_path / "x", header, tensors | {name: data})
        assert not read_all(tmp_path / "x")


def test_a_header_may_claim_any_number_of_tokens_and_no_memory_is_taken(tmp_path: Path) -> None:
    shape = replace(GOLDEN_SHAPE, tokens={"FP16": 10**9, "INT8": 0, "INT4": 0})
    header = make_header(shape, codec=replace(KLT, block_samples=2))
    path = forge(tmp_path / "x", header, tensors_of(KLT_GOLDEN))
    with (
        CacheFile.open(path) as cache,
        pytest.raises(CacheFileError, match="tables: 17000000036 bytes"),
    ):
        _ = cache.tables
    claimed = bytearray(compress([bytes(1_000_000)], 3))
    assert claimed[4] >> 6 == 2  # the content's size has four bytes
    size_at = 5 if claimed[4] & 0x20 else 6
    claimed[size_at : size_at + 4] = (10**9).to_bytes(4, "little")
    with pytest.raises(DecodeError, match=r"\d+ bytes cannot be a frame of 1000000000"):
        decompress(bytes(claimed), [10**9])


def test_a_basis_cannot_claim_more_components_than_it_has_gains() -> None:
    data = tensors_of(KLT_GOLDEN)["basis.00"]
    shape = (1, 2, 2, 8)
    with pytest.raises(DecodeError, match="a basis of 65535 components of 32"):
        bases.unpack(b"\xff\xff" + data[2:], shape)
    more = bytes([data[0] + 1, 0]) + data[2:10] + np.float32(1).tobytes() + data[10:]
    with pytest.raises(DecodeError, match=f"{data[0]} directions that have symbols, expected"):
        bases.unpack(more, shape)
    with pytest.raises(DecodeError, match="16384 directions of 8192 numbers in 40 bytes"):
        bases.read_directions(bytes(40), torch.ones(1 << 14), 1 << 13)
    with pytest.raises(DecodeError, match="a scale or gain that is not finite and positive"):
        bases.unpack(data[:2] + np.float32(np.nan).tobytes() + data[6:], shape)
