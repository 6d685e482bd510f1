"""A header or a table of tensors that FORMAT.md does not know is refused by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from cachefmt import Header
from tests.cachefmt.breaking import Table, opening_fails, rewrite_header, rewrite_table
from tests.cachefmt.files import make_header, write_file

KEY = "layers.0.key.int8"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "x.safetensors")


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
