"""What goes into a cache file comes out of it, bit for bit, for every shape."""

import dataclasses
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from cachefmt import (
    CacheFile,
    CacheFileError,
    CacheWriter,
    Codec,
    Fidelity,
    Header,
    Shape,
    file_size,
)
from cachefmt.codecs.symbols import DecodeError
from cachefmt.layout import block_name
from cachefmt.sealing import lengthen, versioned
from tests.cachefmt.files import (
    KLT,
    PLAIN,
    make_bounds,
    make_content,
    make_header,
    make_tables,
    shapes,
    write_file,
)

ROOT = Path(__file__).parents[2]
few = settings(max_examples=40, deadline=None)
"""Each writes files."""
FIDELITY = Fidelity(kl=0.0123456789, agreement=0.987, questions=12, tokens=48)


def without_digests(header: Header) -> Header:
    return dataclasses.replace(header, digests=None, header_sha256=None)


@st.composite
def codecs(draw: st.DrawFn) -> Codec:
    codec = replace(draw(st.sampled_from([PLAIN, KLT])), group_layers=draw(st.integers(1, 3)))
    if codec.name == "klt" and draw(st.booleans()):
        codec = replace(codec, calibration="7" * 64)
    return replace(codec, block_samples=draw(st.integers(1, 4)))


@few
@given(
    shape=shapes(),
    codec=codecs(),
    seed=st.integers(0, 99),
    name=st.text(max_size=20),
    fidelity=st.sampled_from([None, FIDELITY]),
)
def test_a_file_has_the_planned_size_and_gives_everything_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: Shape,
    codec: Codec,
    seed: int,
    name: str,
    fidelity: Fidelity | None,
) -> None:
    path = tmp_path_factory.mktemp("cache") / "x.safetensors"
    header, tables = make_header(shape, name, codec), make_tables(shape, seed)
    content = make_content(header, tables, seed)
    write_file(path, header, tables=tables, content=content, fidelity=fidelity)
    with CacheFile.open(path) as cache:
        cache.verify()
        assert without_digests(cache.header) == replace(header, fidelity=fidelity)
        assert os.path.getsize(path) == cache.size_bytes
        assert cache.size_bytes <= file_size(header, tables)
        if codec.name == "plain" and not shape.index_layers:
            assert cache.size_bytes == file_size(header, tables)
        for column, expected in vars(tables).items():
            if not column.startswith("_"):
                found = getattr(cache.tables, column)
                assert np.array_equal(found, expected)
                assert found.dtype == expected.dtype
        for group in range(header.group_count):
            if codec.has_bases:
                assert cache.basis(group) == content[f"basis.{group:02}"]
            for number in range(header.block_count):
                assert cache.block(number, group) == content[f"block.{number:05}.{group:02}"]
        assert cache.cost_seconds.tolist() == [0.5, 1.0, 2.0]
        bounds = make_bounds(shape)
        if shape.index_layers:
            assert cache.index is not None
            assert cache.index.pack(shape) == bounds.pack(shape)
        else:
            assert cache.index is None
    with safetensors.safe_open(path, "np") as opened:
        assert list(opened.keys()) == sorted(cache.names)


def test_what_was_written_can_be_read_before_the_file_has_its_name(tmp_path: Path) -> None:
    path, header, tables = tmp_path / "x.safetensors", make_header(), make_tables()
    content = make_content(header, tables)
    with CacheWriter(path, header, tables) as writer:
        with pytest.raises(CacheFileError, match="was not written"):
            writer.read_back()
        for name, data in content.items():
            _, number, group = name.split(".")
            writer.write_block(int(number), int(group), data)
        writer.write_index(make_bounds())
        with writer.read_back() as cache:
            cache.verify()
            assert cache.header.fidelity is None
            assert cache.block(0, 0) == content["block.00000.00"]
        assert not path.exists()
        writer.finish([0.5, 1.0, 2.0], FIDELITY)
    write_file(tmp_path / "other.safetensors", header, fidelity=FIDELITY)
    assert path.read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_the_safetensors_library_reads_equal_bytes(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors", make_header(codec=KLT))
    with safetensors.safe_open(path, "np") as theirs, CacheFile.open(path) as ours:
        assert sorted(theirs.metadata()) == ["sali-cache", "seal"]
        version, text = versioned(theirs.metadata(), "sali-cache")
        header = Header.from_json(lengthen(text, "sali-cache"), version)
        assert header == dataclasses.replace(ours.header, digests=None, header_sha256=None)
        assert theirs.get_tensor("cost.seconds").tolist() == ours.cost_seconds.tolist()
        assert theirs.get_tensor("block.00000.01").tobytes() == ours.block(0, 1)
        assert theirs.get_tensor("basis.00").tobytes() == ours.basis(0)
        assert theirs.get_tensor("tables").tobytes() == ours.tables.pack()


def test_a_file_that_is_closed_or_has_no_such_tensor_refuses(tmp_path: Path) -> None:
    with CacheFile.open(write_file(tmp_path / "x")) as cache:
        for read in (lambda: cache.basis(0), lambda: cache.block(2, 0), lambda: cache.block(0, 1)):
            with pytest.raises(ValueError, match="has no tensor"):
                read()
        tables = cache.tables
    assert cache.tables is tables
    with pytest.raises(ValueError, match="is closed"):
        cache.block(0, 0)


def test_a_file_that_shrinks_while_it_is_open_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x")
    with CacheFile.open(path) as cache:
        os.truncate(path, cache.size_bytes - 1)
        assert cache.block(1, 0)
        with pytest.raises(CacheFileError, match="x: cannot be read: the file was cut short"):
            _ = cache.index


def test_what_a_codec_says_about_a_block_names_file_block_and_layers(tmp_path: Path) -> None:
    with (
        CacheFile.open(write_file(tmp_path / "x", make_header(codec=KLT))) as cache,
        pytest.raises(
            CacheFileError, match=r"x: block\.00000\.01 \(layers 1 to 1\) cannot be decoded: bad"
        ),
        cache.decoding(block_name(0, 1), 1),
    ):
        raise DecodeError("bad")


def test_importing_and_reading_headers_and_tables_loads_no_torch(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors")
    code = (
        "import sys, cachefmt\n"
        f"cache = cachefmt.CacheFile.open({str(path)!r})\n"
        "cache.verify()\n"
        "print(cache.header.tool, cache.tables.token_count, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0.1.0", "9", "False"]
