"""A damaged or foreign file is refused, and the error names it, and what in it is wrong."""

import dataclasses
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cachefmt import CacheFile, CacheFileError, Fidelity, FormatVersion, Header, PolicyIdentity
from cachefmt.sealing import from_text, shorten, to_text
from tests.cachefmt.breaking import (
    Table,
    opening_fails,
    rewrite_header,
    rewrite_table,
    seal,
    tensors_of,
    verifying_fails,
)
from tests.cachefmt.files import KLT, SHAPE, join_file, make_header, split_file, write_file

KEY = "block.00001.00"


def metadata(packed: object) -> bytes:
    """The JSON of a file without tensors, with this as its header."""
    value = f"2.0:{packed}" if isinstance(packed, str) else packed
    return json.dumps({"__metadata__": {"sali-cache": value, "seal": ""}}).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "x.safetensors")


def test_names_and_parameters_that_look_like_the_digest_are_only_text(tmp_path: Path) -> None:
    trap = '","seal":"' + "0" * 40 + '"'
    header = dataclasses.replace(
        make_header(name=trap),
        tool=trap,
        policy=PolicyIdentity(name=trap, parameters={"seal": "0" * 40, "digests": trap}),
    )
    path = write_file(tmp_path / "x", header)
    with CacheFile.open(path) as cache:
        assert cache.header.video.name == cache.header.tool == trap


def test_swapped_blocks_of_one_size_are_found(path: Path) -> None:
    header = make_header(dataclasses.replace(SHAPE, index_layers=()), codec=KLT)
    names = list(tensors_of(write_file(path, header)))[2:]
    content = {name: name.encode().ljust(20) for name in names}
    write_file(path, header, content=content)
    json_bytes, data = split_file(path)
    join_file(path, json_bytes, data[:-40] + data[-20:] + data[-40:-20])
    assert verifying_fails(path).startswith(f"{names[-2]} does not match its digest")


def test_a_header_without_a_seal_of_its_own_is_refused(path: Path, tmp_path: Path) -> None:
    other = write_file(tmp_path / "other", make_header(name="other.mp4"))
    header = json.loads(split_file(other)[0])["__metadata__"]["sali-cache"]
    rewrite_table(path, lambda table: table["__metadata__"].update({"sali-cache": header}))
    assert opening_fails(path).startswith("the header does not match its seal")


def test_a_damaged_header_is_called_so_whatever_it_looks_like(path: Path) -> None:
    content = path.read_bytes()
    for at in range(8, content.index(b'"seal"'), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        problem = opening_fails(path)
        assert "damaged" in problem or "metadata" in problem


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in opening_fails(tmp_path / "nothing.safetensors")
    assert "cannot be opened" in opening_fails(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:5], "is truncated: 5 bytes, the header's length alone has 8"),
        (lambda content: content[:500], "is truncated in its header: 500 bytes"),
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
        (
            b'{"__metadata__": {"sali-cache": "2.0:"}}',
            "has the metadata keys ['sali-cache'], expected ['sali-cache', 'seal']",
        ),
        (metadata(3), "metadata key 'sali-cache' must be a string that begins with a version"),
        (metadata("{,}"), "bad base85 character"),
        (metadata("0"), "metadata key 'sali-cache' is not in base 85"),
        (metadata(to_text(b"\7\0\0\0")), "metadata key 'sali-cache': Error -3 while decompressing"),
        (metadata(shorten("3")[:-2]), "metadata key 'sali-cache' is no deflated header"),
        (
            metadata(to_text(from_text(shorten("3"), "", most_bytes=9) + b"3")),
            "is no deflated header",
        ),
        (metadata("0" * 4_000_000), "key 'sali-cache' has 3200000 bytes, expected 2097152 at most"),
        (metadata(shorten("{")), "Expecting property name"),
        (metadata(shorten("3")), "header must be an object, got int"),
        (metadata(shorten("[" * 100_000)), "nested too deep"),
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
    seal(path)
    expected = "has the metadata keys ['format', 'sali-cache', 'seal'], expected "
    assert opening_fails(path) == f"{expected}['sali-cache', 'seal']"


def test_errors_survive_the_way_between_processes(tmp_path: Path) -> None:
    error = CacheFileError(tmp_path / "x", "is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path) == (str(error), error.path)


@pytest.mark.parametrize(
    ("major", "help"),
    [(3, "a newer sali-cache can read it"), (1, "`batch prefill` writes it again")],
)
def test_another_major_is_refused_before_anything_else_of_it_is_read(
    path: Path, major: int, help: str
) -> None:
    def change(table: Table) -> None:
        table["__metadata__"] = {"sali-cache": f"{major}.3:packed as nobody knows", "colour": 1}
        table["tables"]["dtype"] = "F4"

    rewrite_table(path, change)
    problem = f"written in format {major}.3, this reader knows 2.0; {help}"
    assert opening_fails(path) == problem


@pytest.mark.parametrize("part", [None, "model", "prompt", "video", "shape", "layout", "codec"])
def test_an_unknown_key_is_refused(path: Path, part: str | None) -> None:
    rewrite_header(path, lambda h: (h[part] if part else h).update(colour="red"))
    assert f"unknown key header{'.' + part if part else ''}.colour" == opening_fails(path)


def test_an_unknown_key_of_a_newer_minor_is_refused(path: Path) -> None:
    rewrite_header(path, lambda h: h.update(format="2.9", colour="red"))
    assert opening_fails(path) == "unknown key header.colour"


def test_a_newer_minor_without_unknown_keys_is_read(path: Path) -> None:
    rewrite_header(path, lambda h: h.update(format="2.9"))
    with CacheFile.open(path) as cache:
        assert str(cache.header.format) == "2.9"


@pytest.mark.parametrize("key", sorted(json.loads(make_header().to_json())))
def test_a_missing_key_is_refused(path: Path, key: str) -> None:
    rewrite_header(path, lambda h: h.pop(key))
    assert opening_fails(path) == f"missing key header.{key}"


KLT_CODEC: Table = {"name": "klt", "quality": "small", "step": 1}


def codec(**changes: object) -> Callable[[Table], None]:
    return lambda header: header["codec"].update(changes)


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
        (lambda h: h["shape"].update(layers=10**12), "has 5 tensors, its header asks for 1000000"),
        (lambda h: h["shape"].update(layers=10**12, index_layers=[]), "its header asks for 100000"),
        (lambda h: h["shape"].update(stored_samples=4), "stored_samples must be at most 3, got 4"),
        (lambda h: h["shape"].update(index_layers=[1, 0]), "index_layers must be rising and below"),
        (lambda h: h["shape"].update(index_layers=[1, 1]), "index_layers must be rising and below"),
        (lambda h: h["shape"].update(index_layers=[2]), "must be rising and below 2, got [2]"),
        (lambda h: h["shape"].update(index_layers=[-1]), "must be rising and below 2, got [-1]"),
        (lambda h: h["shape"].update(stored_samples=1), "unknown tensor 'block.00001.00'"),
        (lambda h: h["shape"].update(stored_samples=3), "missing tensor block.00002.00"),
        (lambda h: h["shape"].update(index_layers=[]), "unknown tensor 'index'"),
        (lambda h: h["layout"].update(slots=3), "9 tokens do not fit 3 slots"),
        (lambda h: h["shape"].update(columns=10**12), "rows x shape.columns = 2 x 1000000000000"),
        (lambda h: h["shape"].update(rows=5), "3 samples of shape.rows x shape.columns = 5 x 3"),
        (lambda h: h["layout"].update(computed=10), "layout.computed must be at most 9, got 10"),
        (lambda h: h["layout"].update(positions="new"), "layout.positions must be one of"),
        (lambda h: h["layout"].update(next_position=[1, 2]), "needs 1 numbers, got 2"),
        (lambda h: h["layout"].update(next_position=["1"]), "next_position has the wrong type"),
        (lambda h: h["video"].update(sha256="A" * 64), "video.sha256 must be 64 lower-case"),
        (lambda h: h["policy"]["parameters"].update(x=[1]), "parameters.x has the wrong type"),
        (lambda h: h.update(digests=""), "unknown key header.digests"),
        (lambda h: h.update(model=None), "header.model must be an object, got NoneType"),
        (codec(name="zip"), "codec.name must be one of"),
        (codec(quality="best"), "codec.quality must be one of"),
        (codec(quality="high"), "plain is lossless and has no step"),
        (codec(step=1.0), "plain is lossless and has no step"),
        (codec(name="klt", quality="high"), "plain is lossless and has no step"),
        (codec(name="klt", quality="high", step=0), "codec.step must be positive and finite"),
        (codec(name="klt", quality="high", step=True), "codec.step has the wrong type: got bool"),
        (codec(group_layers=3), "codec.group_layers must be at most 2, got 3"),
        (codec(group_layers=0), "codec.group_layers must be at least 1, got 0"),
        (codec(group_layers=1), "missing tensor block.00000.01"),
        (codec(block_samples=0), "codec.block_samples must be at least 1, got 0"),
        (codec(calibration="7" * 64), "does not fit 'plain' with 0 codec.text_tokens"),
        (codec(text_tokens=1), "does not fit 'plain' with 1 codec.text_tokens"),
        (codec(calibration="x"), "codec.calibration must be 64 lower-case"),
        (codec(**KLT_CODEC, calibration="7" * 64, text_tokens=10), "must be at most 9, got 10"),
        (codec(**KLT_CODEC, text_tokens=1), "does not fit 'klt' with 1 codec.text_tokens"),
        (codec(**KLT_CODEC), "missing tensor basis.00"),
        (
            lambda h: (codec(**KLT_CODEC)(h), h["shape"].update(heads=1025)),
            "codec.group_layers 2 are 32800 numbers a token, at most 32768 fit a basis",
        ),
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
        (lambda t: t[KEY].update(dtype="I8"), f"{KEY}: wrong dtype: got 'I8', expected 'U8'"),
        (lambda t: t[KEY].update(shape=[3, 16]), f"{KEY}: its shape must be one number, got [3, 1"),
        (lambda t: t[KEY].update(shape=[-1]), f"{KEY}: its shape must be one number, got [-1]"),
        (lambda t: t[KEY].update(shape=[True]), f"{KEY}: its shape must be one number, got [True]"),
        (lambda t: t[KEY].update(shape=[7]), f"{KEY}: wrong data_offsets: got ["),
        (lambda t: t[KEY].update(data_offsets=[0, 48]), f"{KEY}: wrong data_offsets: got [0, 48]"),
        (lambda t: t[KEY].update(data_offsets=3), f"{KEY}: wrong data_offsets: got 3"),
        (lambda t: t[KEY].pop("shape"), f"{KEY}: its entry must have the keys"),
        (lambda t: t.update({KEY: 3}), f"{KEY}: its entry must have the keys"),
        (lambda t: t["cost.seconds"].update(shape=[4]), "cost.seconds: wrong shape: got [4]"),
        (
            lambda t: t["cost.seconds"].update(data_offsets=[False, 24]),
            "cost.seconds: wrong data_offsets: got [False, 24]",
        ),
    ],
)
def test_a_table_that_does_not_fit_the_shape_is_refused(
    path: Path, change: Callable[[Table], None], problem: str
) -> None:
    rewrite_table(path, change)
    assert problem in opening_fails(path)


@pytest.mark.parametrize(
    ("at", "packed", "problem"),
    [
        (32, struct.pack("<dd", -1, 1), "fidelity.kl must be finite and at least 0, got -1.0"),
        (32, struct.pack("<dd", np.nan, 1), "fidelity.kl must be finite and at least 0, got nan"),
        (40, struct.pack("<d", 1.5), "fidelity.agreement must be in 0..1, got 1.5"),
        (48, struct.pack("<I", 0), "fidelity.questions must be at least 1, got 0"),
        (136, b"more", "metadata key 'seal' has 140 bytes, expected 136 at most"),
        (132, b"", "a seal of 132 bytes, expected 56 and 16 for each of 5 tensors"),
        (0, bytes(32), "the header does not match its seal"),
    ],
)
def test_a_seal_that_says_otherwise_is_refused(
    tmp_path: Path, at: int, packed: bytes, problem: str
) -> None:
    fidelity = Fidelity(kl=0.5, agreement=1, questions=2, tokens=3)
    path = write_file(tmp_path / "x", fidelity=fidelity)

    def change(table: Table) -> None:
        data = from_text(table["__metadata__"]["seal"], "seal", most_bytes=136)
        rest = data[at + len(packed) :] if packed else b""
        table["__metadata__"]["seal"] = to_text(data[:at] + packed + rest)

    rewrite_table(path, change)
    assert problem in opening_fails(path)


def test_what_is_no_header_is_neither_made_nor_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 64 lower-case hexadecimal digits, got 'x'"):
        dataclasses.replace(make_header(), header_sha256="x")
    with pytest.raises(ValueError, match=r"fidelity\.tokens must be below 2\^32, got 4294967296"):
        Fidelity(kl=0, agreement=1, questions=1, tokens=1 << 32)
    with pytest.raises(ValueError, match="header must be an object"):
        Header.from_json("[]", FormatVersion())
    with pytest.raises(CacheFileError, match=r"the header has \d+ bytes, at most 1048576 fit"):
        write_file(tmp_path / "x", make_header(name="x" * 2**20))
    assert list(tmp_path.iterdir()) == []
