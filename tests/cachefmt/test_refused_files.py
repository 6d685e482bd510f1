"""A damaged or foreign file is refused, and the error names it, and what in it is wrong."""

import dataclasses
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cachefmt import CacheFile, CacheFileError, Header, PolicyIdentity, tensor_specs
from tests.cachefmt.breaking import (
    Table,
    opening_fails,
    rewrite_header,
    rewrite_table,
    verifying_fails,
)
from tests.cachefmt.files import SHAPE, join_file, make_header, split_file, write_file

KEY = "layers.0.key.int8"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "x.safetensors")


@settings(max_examples=60)
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


def test_a_flipped_bit_in_every_seventh_byte_of_the_header_is_found(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x", make_header(dataclasses.replace(SHAPE, layers=1)))
    content = path.read_bytes()
    json_bytes, _ = split_file(path)
    for index in range(0, 8 + len(json_bytes), 7):
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


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in opening_fails(tmp_path / "nothing.safetensors")
    assert "cannot be opened" in opening_fails(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:5], "is truncated: 5 bytes, the header's length alone has 8"),
        (lambda content: content[:1000], "is truncated in its header: 1000 bytes"),
        (lambda content: content[:-1], "is truncated: {less} bytes, its header describes {size}"),
        (lambda content: content + b"\0", "is too long: {more} bytes, its header describes {size}"),
        (
            lambda content: b"RIFF\x00\x00\x00\x00AVI LIST" * 50,
            "is no safetensors file, or damaged: a header of",
        ),
        (lambda content: struct.pack("<Q", 1 << 60) + content[8:], f"a header of {1 << 60} bytes"),
    ],
)
def test_a_file_that_is_cut_or_no_safetensors_is_refused(
    path: Path, change: Callable[[bytes], bytes], problem: str
) -> None:
    content = path.read_bytes()
    path.write_bytes(change(content))
    size = len(content)
    assert problem.format(size=size, less=size - 1, more=size + 1) in opening_fails(path)


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


def test_a_newer_major_is_refused_before_its_keys_are_judged(path: Path) -> None:
    rewrite_header(path, lambda h: h.update(format={"major": 2, "minor": 3}, colour="red"))
    assert "written in format 2.3, this reader knows 1.0" in opening_fails(path)


@pytest.mark.parametrize("part", [None, "format", "model", "prompt", "video", "shape", "layout"])
def test_an_unknown_key_is_refused(path: Path, part: str | None) -> None:
    rewrite_header(path, lambda h: (h[part] if part else h).update(colour="red"))
    assert f"unknown key header{'.' + part if part else ''}.colour" == opening_fails(path)


def test_an_unknown_key_of_a_newer_minor_is_refused(path: Path) -> None:
    rewrite_header(path, lambda h: h.update(format={"major": 1, "minor": 9}, colour="red"))
    assert opening_fails(path) == "unknown key header.colour"


@pytest.mark.parametrize("key", sorted(dataclasses.asdict(make_header())))
def test_a_missing_key_is_refused(path: Path, key: str) -> None:
    rewrite_header(path, lambda h: h.pop(key))
    assert opening_fails(path) == f"missing key header.{key}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda h: h["shape"].update(heads="2"), "header.shape.heads has the wrong type: got str"),
        (
            lambda h: h["shape"].update(heads=True),
            "header.shape.heads has the wrong type: got bool",
        ),
        (
            lambda h: h["shape"].update(heads=2.0),
            "header.shape.heads has the wrong type: got float",
        ),
        (lambda h: h["shape"].update(heads=0), "shape.heads must be at least 1, got 0"),
        (lambda h: h["shape"].update(group_size=3), "a multiple of shape.group_size"),
        (lambda h: h["shape"].update(head_dim=7, group_size=7), "must be even"),
        (lambda h: h["shape"].update(raw_dtype="F8"), "shape.raw_dtype must be one of"),
        (lambda h: h["shape"]["tokens"].update(FP16=-1), "shape.tokens.FP16 must be at least 0"),
        (lambda h: h["shape"]["tokens"].update(PRUNE=1), "shape.tokens must name FP16, INT8"),
        (lambda h: h["shape"].update(layers=10**12), "has 35 tensors, its shape asks for 120000"),
        (lambda h: h["shape"].update(stored_samples=4), "stored_samples must be at most 3, got 4"),
        (lambda h: h["shape"].update(index_layers=[1, 0]), "index_layers must be rising and below"),
        (lambda h: h["shape"].update(index_layers=[1, 1]), "index_layers must be rising and below"),
        (lambda h: h["shape"].update(index_layers=[2]), "must be rising and below 2, got [2]"),
        (lambda h: h["shape"].update(index_layers=[-1]), "must be rising and below 2, got [-1]"),
        (lambda h: h["shape"].update(stored_samples=1), "index.row: wrong shape: got [2, 3]"),
        (lambda h: h["shape"].update(index_layers=[]), "index.bounds.scale: wrong shape"),
        (lambda h: h["layout"].update(slots=3), "9 tokens do not fit 3 slots"),
        (lambda h: h["shape"].update(columns=10**12), "rows x shape.columns = 2 x 1000000000000"),
        (lambda h: h["shape"].update(rows=5), "3 samples of shape.rows x shape.columns = 5 x 3"),
        (lambda h: h["layout"].update(positions="new"), "layout.positions must be one of"),
        (lambda h: h["layout"].update(next_position=[1, 2]), "needs 1 numbers, got 2"),
        (lambda h: h["layout"].update(next_position=["1"]), "next_position has the wrong type"),
        (lambda h: h["video"].update(sha256="A" * 64), "video.sha256 must be 64 lower-case"),
        (lambda h: h["policy"]["parameters"].update(x=[1]), "parameters.x has the wrong type"),
        (lambda h: h.update(checksums=None), "must not be null"),
        (lambda h: h.update(model=None), "header.model must be an object, got NoneType"),
        (lambda h: h["checksums"].pop(KEY), f"missing checksum of {KEY}"),
        (lambda h: h["checksums"].update(x="0" * 64), "unknown checksum of 'x'"),
        (lambda h: h["video"].update(name="other.mp4"), "does not match its header_sha256"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    path: Path, change: Callable[[Table], None], problem: str
) -> None:
    rewrite_header(path, change)
    assert problem in opening_fails(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop(KEY), f"missing tensor {KEY}"),
        (lambda t: t.update(extra=t[KEY]), "unknown tensor 'extra'"),
        (lambda t: t[KEY].update(dtype="U8"), f"{KEY}: wrong dtype: got 'U8', expected 'I8'"),
        (lambda t: t[KEY].update(shape=[3, 16]), f"{KEY}: wrong shape: got [3, 16]"),
        (lambda t: t[KEY].update(data_offsets=[0, 48]), f"{KEY}: wrong data_offsets: got [0, 48]"),
        (lambda t: t[KEY].pop("shape"), f"{KEY}: its entry must have the keys"),
        (lambda t: t.update({KEY: 3}), f"{KEY}: its entry must have the keys"),
    ],
)
def test_a_table_that_does_not_fit_the_shape_is_refused(
    path: Path, change: Callable[[Table], None], problem: str
) -> None:
    rewrite_table(path, change)
    assert problem in opening_fails(path)


def test_a_header_that_was_never_written_has_no_json() -> None:
    with pytest.raises(ValueError, match="without its checksums"):
        make_header().to_json()
    with pytest.raises(ValueError, match="must be 64 lower-case hexadecimal digits, got 'x'"):
        dataclasses.replace(make_header(), header_sha256="x")
    with pytest.raises(ValueError, match="header must be an object"):
        Header.from_json("[]")
