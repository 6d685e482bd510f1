"""What goes into a cache file comes out of it, bit for bit, for every shape."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachefmt import CacheFile, CacheWriter, Header, Shape, Tier, file_size, tensor_specs
from cachefmt.tensors import tensor
from tests.cachefmt.files import SHAPE, blocks, make_arrays, make_header, shapes, write_file

ROOT = Path(__file__).parents[2]
few = settings(max_examples=40)
"""Each writes files."""


def without_digests(header: Header) -> Header:
    return dataclasses.replace(header, checksums=None, header_sha256=None)


@few
@given(shape=shapes(), seed=st.integers(0, 99), name=st.text(max_size=20))
def test_a_file_has_the_planned_size_and_gives_everything_back_aligned_and_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, seed: int, name: str
) -> None:
    path = tmp_path_factory.mktemp("cache") / "x.safetensors"
    header, arrays = make_header(shape, name), make_arrays(shape, seed)
    write_file(path, header, arrays)
    with CacheFile.open(path) as cache:
        cache.verify()
        assert without_digests(cache.header) == header
        assert os.path.getsize(path) == file_size(header) == cache.size_bytes
        assert file_size(cache.header) == file_size(header)
        assert arrays.keys() == tensor_specs(shape).keys()
        for key, array in arrays.items():
            got = cache.array(key)
            assert got.flags.aligned
            assert got.dtype == array.dtype
            assert got.shape == array.shape
            assert got.tobytes() == array.tobytes()
            assert tensor(cache, key).shape == array.shape


@few
@given(shape=shapes(), data=st.data())
def test_any_order_and_any_blocks_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    header, arrays = make_header(shape), make_arrays(shape)
    whole = write_file(folder / "whole.safetensors", header, arrays)
    parts = [
        (name, start, stop)
        for name, array in arrays.items()
        for start, stop in blocks(len(array), data.draw(st.lists(st.integers(1, 6), max_size=3)))
    ]
    with CacheWriter(folder / "parts.safetensors", header) as writer:
        for name, start, stop in data.draw(st.permutations(parts)):
            writer.write(name, start, arrays[name][start:stop])
        writer.finish()
    assert (folder / "parts.safetensors").read_bytes() == whole.read_bytes()


def test_strided_arrays_and_signed_bfloat16_bits_are_written_as_they_read(tmp_path: Path) -> None:
    arrays = make_arrays()
    plain = write_file(tmp_path / "plain.safetensors", arrays=arrays)
    name = "layers.0.key.fp16"
    signed = arrays | {name: np.asfortranarray(arrays[name].view(np.int16))}
    assert not signed[name].flags.c_contiguous
    other = write_file(tmp_path / "other.safetensors", arrays=signed)
    assert other.read_bytes() == plain.read_bytes()


def test_a_slice_is_the_rows_asked_for(tmp_path: Path) -> None:
    name = "layers.1.value.fp16"
    with CacheFile.open(write_file(tmp_path / "x.safetensors")) as cache:
        for start, stop in itertools.product(range(5), repeat=2):
            if start > stop:
                with pytest.raises(ValueError, match="has 4 rows"):
                    cache.array(name, start, stop)
            else:
                expected = make_arrays()[name][start:stop]
                assert np.array_equal(cache.array(name, start, stop), expected)
                assert np.array_equal(cache.read(name, start, stop), expected)
                assert np.array_equal(tensor(cache, name, start, stop).view(torch.uint16), expected)


@pytest.mark.parametrize("raw_dtype", ["F16", "BF16", "F32"])
def test_the_safetensors_library_reads_equal_tensors(tmp_path: Path, raw_dtype: str) -> None:
    header = make_header(dataclasses.replace(SHAPE, raw_dtype=raw_dtype))
    path = write_file(tmp_path / "x.safetensors", header)
    with safetensors.safe_open(path, "pt") as theirs, CacheFile.open(path) as ours:
        assert set(theirs.keys()) == set(tensor_specs(header.shape))
        assert list(theirs.metadata()) == ["sali-cache"]
        assert Header.from_json(theirs.metadata()["sali-cache"]) == ours.header
        for name in theirs.keys():  # noqa: SIM118 - safe_open is no mapping
            got, expected = tensor(ours, name), theirs.get_tensor(name)
            assert got.dtype == expected.dtype
            assert got.shape == expected.shape
            assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_arrays_are_read_only_and_tensors_share_their_memory(tmp_path: Path) -> None:
    with CacheFile.open(write_file(tmp_path / "x.safetensors")) as cache:
        array = cache.array("layers.0.key.int8", 1)
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert tensor(cache, "layers.0.key.int8", 1).data_ptr() == array.ctypes.data


def test_a_write_into_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors")
    before = path.read_bytes()
    with CacheFile.open(path) as cache:
        tensor(cache, "layers.0.key.int8").zero_()
    assert path.read_bytes() == before


def test_tensors_outlive_the_open_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors")
    with CacheFile.open(path) as cache:
        kept = tensor(cache, "layers.0.key.int8")
    path.unlink()
    assert np.array_equal(kept.numpy(), make_arrays()["layers.0.key.int8"])
    with pytest.raises(ValueError, match="is closed"):
        cache.array("layers.0.key.int8")


def test_rows_of_a_tier_are_its_rows_in_the_token_tables() -> None:
    tiers = (Tier.FP16, Tier.INT8, Tier.INT4)
    assert [SHAPE.rows_of(tier) for tier in tiers] == [range(4), range(4, 7), range(7, 9)]


def test_importing_and_reading_headers_loads_no_torch(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors")
    code = (
        "import sys, cachefmt\n"
        f"cache = cachefmt.CacheFile.open({str(path)!r})\n"
        "cache.verify()\n"
        "print(cache.header.tool, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0.1.0", "False"]
