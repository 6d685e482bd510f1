"""A damaged or foreign container is refused, and the error names the file and the tensor."""

import dataclasses
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cachefmt import CacheFile, CacheFileError, PolicyIdentity, tensor_specs
from tests.cachefmt.breaking import opening_fails, rewrite_table, verifying_fails
from tests.cachefmt.files import SHAPE, join_file, make_header, split_file, write_file

KEY = "layers.0.key.int8"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "x.safetensors")


@settings(max_examples=200)
@example(position=0.0, bit=0)
@example(position=1.0, bit=7)
@given(position=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, position: float, bit: int
) -> None:
    path = write_file(tmp_path_factory.mktemp("cache") / "x.safetensors")
    content = bytearray(path.read_bytes())
    index = min(int(position * len(content)), len(content) - 1)
    content[index] ^= 1 << bit
    path.write_bytes(content)
    json_bytes, _ = split_file(write_file(path.with_name("intact")))
    data_start = 8 + len(json_bytes)
    if index < data_start:
        opening_fails(path)
    else:
        damaged = tensor_at(index - data_start)
        assert verifying_fails(path) == (
            f"{damaged} does not match its checksum: it was changed or damaged"
        )


def tensor_at(offset: int) -> str:
    for name, spec in tensor_specs(SHAPE).items():
        if offset < spec.size_bytes:
            return name
        offset -= spec.size_bytes
    raise IndexError


def test_a_flipped_bit_in_every_third_byte_of_the_header_is_found(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x", make_header(dataclasses.replace(SHAPE, layers=1)))
    content = path.read_bytes()
    json_bytes, _ = split_file(path)
    for index in range(0, 8 + len(json_bytes), 3):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        opening_fails(path)


def test_names_and_parameters_that_look_like_the_digest_are_only_text(tmp_path: Path) -> None:
    trap = ',"header_sha256":"' + "0" * 64 + '"'
    header = dataclasses.replace(
        make_header(name=trap),
        tool=trap,
        policy=PolicyIdentity(name=trap, parameters={"header_sha256": "0" * 64, "checksums": trap}),
    )
    path = write_file(tmp_path / "x", header)
    with CacheFile.open(path) as cache:
        assert cache.header.video.name == cache.header.tool == trap


def test_swapped_tensors_of_one_shape_are_found(path: Path) -> None:
    specs = tensor_specs(SHAPE)
    json_bytes, data = split_file(path)
    content, names, at = {}, list(specs), 0
    for name in names:
        content[name], at = data[at : at + specs[name].size_bytes], at + specs[name].size_bytes
    other = KEY.replace("layers.0", "layers.1")
    content[KEY], content[other] = content[other], content[KEY]
    join_file(path, json_bytes, b"".join(content[name] for name in names))
    assert verifying_fails(path).startswith(f"{KEY} does not match its checksum")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in opening_fails(tmp_path / "nothing.safetensors")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be opened" in opening_fails(tmp_path)


def test_an_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert opening_fails(path) == "is empty"


def test_a_file_cut_in_its_length_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])
    assert "is truncated: 5 bytes" in opening_fails(path)


def test_a_file_cut_in_its_header_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])
    assert "is truncated in its header: 1000 bytes" in opening_fails(path)


def test_a_file_cut_in_its_data_is_refused(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert opening_fails(path) == f"is truncated: {size - 1} bytes, its header describes {size}"


def test_bytes_after_the_end_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert "is too long" in opening_fails(path)


def test_a_file_that_is_not_safetensors_is_refused(path: Path) -> None:
    path.write_bytes(b"RIFF\x00\x00\x00\x00AVI LIST" * 50)
    assert "is no safetensors file, or damaged: a header of" in opening_fails(path)


@pytest.mark.parametrize(
    ("json_bytes", "problem"),
    [
        (b"{nonsense", "is no safetensors file, or damaged: its header"),
        (b"\xff\xfe{}", "is no safetensors file, or damaged: its header"),
        (b"[1, 2]", "its header is a JSON list"),
        (b'{"a": 1, "a": 1}', "key 'a' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "nested too deep"),
        (b"{}", "no key 'sali-cache'"),
        (b'{"__metadata__": 3}', "no key 'sali-cache'"),
        (b'{"__metadata__": {"sali-cache": 3}}', "must be a string of JSON"),
        (b'{"__metadata__": {"sali-cache": "{"}}', "Expecting property name"),
        (b'{"__metadata__": {"sali-cache": "3"}}', "header must be an object, got int"),
    ],
)
def test_a_header_that_is_no_header_is_refused(path: Path, json_bytes: bytes, problem: str) -> None:
    join_file(path, json_bytes, b"")
    assert problem in opening_fails(path)


def test_a_header_that_claims_gigabytes_is_refused(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    assert f"a header of {1 << 60} bytes" in opening_fails(path)


def test_a_safetensors_file_of_somebody_else_is_refused(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    assert "but no cache: its metadata has no key 'sali-cache'" in opening_fails(path)


def test_a_second_metadata_key_is_refused(path: Path) -> None:
    rewrite_table(path, lambda table: table["__metadata__"].update(format="pt"))
    assert "unknown metadata key 'format'" in opening_fails(path)


def test_errors_survive_the_way_between_processes(tmp_path: Path) -> None:
    error = CacheFileError(tmp_path / "x", "is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path) == (str(error), error.path)
