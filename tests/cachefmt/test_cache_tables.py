"""Tables come back as they were, know blocks and places, and are refused by row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cachefmt import CacheFileError, CacheWriter, Shape, Tables, Tier
from cachefmt import columns as packing
from tests.cachefmt.breaking import forge, forge_tables, tensors_of, verifying_fails
from tests.cachefmt.files import (
    KLT,
    PLAIN,
    SHAPE,
    make_bounds,
    make_header,
    make_tables,
    shapes,
    write_file,
)


def tables() -> Tables:
    """Three texts, sample 0 with a text of its own, a text, sample 1, a text; sample 2 points."""
    sample = [-1, -1, 0, 0, 0, -1, 1, 1, -1]
    cell = [-1, -1, 0, 4, -1, -1, 1, 5, -1]
    return Tables(
        time_s=np.array([0.0, 0.5, 2.25]),
        source=np.array([0, 1, 0], np.int32),
        tier=np.array([0, 0, 1, 2, 0, 0, 1, 2, 1], np.uint8),
        sample=np.array(sample, np.int32),
        cell=np.array(cell, np.int32),
        multiplicity=np.array([1, 1, 2, 1, 1, 1, 3, 1, 1], np.int32),
        position=np.array([0, 1, 2, 5, 6, 7, 9, 12, 14], np.int32)[:, None],
    )


def test_stored_samples_begin_where_their_first_token_is_and_text_goes_with_those_before() -> None:
    assert tables().stored.tolist() == [0, 1]
    assert tables().starts.tolist() == [2, 6, 9]
    assert tables().blocks(1) == [range(6), range(6, 9)]
    assert tables().blocks(2) == [range(9)]
    assert tables().blocks(1, text_tokens=2) == [range(2, 6), range(6, 9)]
    assert tables().counts(range(2, 6)) == {Tier.FP16: 2, Tier.INT8: 1, Tier.INT4: 1}
    assert tables().rows(Tier.INT8).tolist() == [2, 6, 8]


def test_columns_that_no_file_can_have_are_refused_before_memory_is_taken() -> None:
    claimed = replace(SHAPE, tokens=dict.fromkeys(SHAPE.tokens, 2 * 10**7))
    with pytest.raises(ValueError, match=r"tables: 1020\d{6} bytes of columns, expected 536870912"):
        Tables.unpack(b"", claimed)


def test_a_place_is_a_cell_or_which_text_of_a_sample_it_is() -> None:
    assert tables().places(SHAPE).tolist() == [-1, -1, 0, 4, 6, -1, 1, 5, -1]
    texts = replace(
        tables(),
        sample=np.array([-1, 0, 0, 0, 0, 0, 1, 1, 2], np.int32),
        cell=np.array([-1, -1, -1, 4, -1, -1, -1, 5, -1], np.int32),
    )
    assert texts.places(SHAPE).tolist() == [-1, 6, 7, 4, 8, 9, 6, 5, 6]


def test_a_file_without_samples_has_one_block_of_its_text() -> None:
    none = np.empty(0, np.int32)
    text = replace(
        tables(),
        time_s=np.empty(0),
        source=none,
        sample=np.full(9, -1, np.int32),
        cell=np.full(9, -1, np.int32),
    )
    text.check(replace(SHAPE, samples=0, stored_samples=0))
    assert text.blocks(4) == [range(9)]


@st.composite
def columns(draw: st.DrawFn) -> Tables:
    """Any bits in all columns, whatever the rules."""
    drawn = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples, tokens, axes = (draw(st.integers(0, 5)) for _ in range(3))
    axes = max(axes, 1)

    def bits(dtype: str, *shape: int) -> NDArray[np.generic]:
        return np.frombuffer(
            drawn.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype
        ).reshape(shape)

    return Tables(
        time_s=bits("<f8", samples),
        source=bits("<i4", samples),
        tier=bits("u1", tokens),
        **{name: bits("<i4", tokens) for name in ("sample", "cell", "multiplicity")},
        position=bits("<i4", tokens, axes),
    )


def test_a_frame_of_other_columns_is_named() -> None:
    packed = packing.pack([np.zeros(3, "u1")])
    with pytest.raises(ValueError, match=r"^index: a frame of 3 bytes, expected 4$"):
        packing.unpack(packed, "index", [(np.dtype("u1"), (4,))])


@given(columns())
@settings(deadline=None)
def test_any_columns_come_back_bit_by_bit(given_tables: Tables) -> None:
    tokens, axes = given_tables.position.shape
    shape = replace(
        SHAPE,
        samples=len(given_tables.time_s),
        stored_samples=0,
        tokens={"FP16": tokens, "INT8": 0, "INT4": 0},
        position_axes=axes,
    )
    found = Tables.unpack(given_tables.pack(), shape)
    for name in ("time_s", "source", "tier", "sample", "cell", "multiplicity", "position"):
        assert getattr(found, name).tobytes() == getattr(given_tables, name).tobytes()
    with pytest.raises(ValueError, match="expected"):
        Tables.unpack(given_tables.pack(), replace(shape, samples=shape.samples + 1))


def test_a_film_of_an_hour_has_tables_of_a_few_kilobytes() -> None:
    samples, cells = 3600, 64
    source = np.arange(samples, dtype=np.int32)
    long = Tables(
        time_s=np.arange(samples) * 1.0,
        source=source,
        tier=np.full(samples * cells, 2, np.uint8),
        sample=source.repeat(cells),
        cell=np.tile(np.arange(cells, dtype=np.int32), samples),
        multiplicity=np.ones(samples * cells, np.int32),
        position=np.arange(samples * cells, dtype=np.int32)[:, None],
    )
    assert len(long.pack()) < 8_000


def put(name: str, row: int, value: float) -> Callable[[Tables], Tables]:
    def change(whole: Tables) -> Tables:
        column = getattr(whole, name).copy()
        column[row] = value
        return replace(whole, **{name: column})

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("source", 0, 1), "source, row 0: is not the sample or an earlier one"),
        (put("source", 1, -1), "source, row 1: is not the sample or an earlier one"),
        (put("source", 2, 2), "source: 3 samples are no pointers, the shape says 2"),
        (put("sample", 7, 2), "sample, row 7: is a pointer, which has no cells"),
        (put("time_s", 1, np.nan), "time_s, row 1: is not finite"),
        (put("time_s", 1, -1), "time_s, row 1: is before the sample above it"),
        (put("multiplicity", 8, 0), "multiplicity, row 8: is below 1"),
        (put("sample", 8, 3), "sample, row 8: is not a sample"),
        (put("sample", 8, -2), "sample, row 8: is not a sample"),
        (put("sample", 2, -1), "cell, row 2: is a cell of no sample"),
        (put("cell", 2, 6), "cell, row 2: is not a cell"),
        (put("cell", 2, -2), "cell, row 2: is not a cell"),
        (put("cell", 3, 0), "cell, row 3: is out of order"),
        (put("sample", 2, 1), "sample, row 3: is out of order"),
        (put("position", 0, -1), "position, row 0: is negative"),
        (put("position", 5, 99), "position, row 6: is out of order"),
        (put("position", 5, 6), "position, row 5: is out of order"),
        (put("tier", 4, 3), "tier, row 4: is not a stored tier"),
        (put("tier", 4, 1), "tier: 3 tokens are FP16, the shape says 4"),
    ],
)
def test_tables_that_break_a_rule_are_refused_by_row(
    tmp_path: Path, change: Callable[[Tables], Tables], problem: str
) -> None:
    header = make_header()
    path = write_file(tmp_path / "x", header, tables=tables())
    forge_tables(path, header, change(tables()))
    assert verifying_fails(path) == problem
    with pytest.raises(CacheFileError, match=problem):
        CacheWriter(tmp_path / "y", header, change(tables()))


def test_a_pointer_to_a_pointer_is_refused() -> None:
    chain = replace(tables(), source=np.array([0, 0, 1], np.int32))
    with pytest.raises(ValueError, match="source, row 2: is a pointer to a pointer"):
        chain.check(SHAPE)


def test_columns_of_another_size_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cell: got int32 \(8,\), expected int32 \(9,\)"):
        replace(tables(), cell=tables().cell[1:]).check(SHAPE)
    with pytest.raises(ValueError, match=r"tier: got int64 \(9,\), expected uint8"):
        replace(tables(), tier=tables().tier.astype(np.int64)).check(SHAPE)


def test_text_that_is_left_to_a_calibration_stands_before_all_samples(tmp_path: Path) -> None:
    for count, is_right in ((2, True), (3, False)):
        codec = replace(KLT, calibration="7" * 64, text_tokens=count)
        header = make_header(codec=codec)
        if is_right:
            write_file(tmp_path / "x", header, tables=tables())
            forged = make_header(codec=replace(codec, text_tokens=3))
            forge(tmp_path / "x", forged, tensors_of(tmp_path / "x"))
            assert "are more than the text before all samples" in verifying_fails(tmp_path / "x")
        else:
            with pytest.raises(CacheFileError, match="more than the text before all samples"):
                CacheWriter(tmp_path / "y", header, tables())


def test_blocks_of_another_size_than_the_tables_say_are_refused(tmp_path: Path) -> None:
    header = make_header(codec=PLAIN)
    path = write_file(tmp_path / "x", header, tables=tables())
    tensors = tensors_of(path)
    tensors["block.00001.00"] += b"\0"
    size = len(tensors["block.00001.00"])
    forge(path, header, tensors)
    assert verifying_fails(path) == f"block.00001.00 has {size} bytes, expected {size - 1}"


@pytest.mark.parametrize(("name", "value"), [("scale", np.inf), ("minimum", np.nan)])
def test_bounds_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    header, bounds = make_header(), make_bounds()
    path = write_file(tmp_path / "x", header)
    getattr(bounds, name)[1, 0, 1] = value
    index = packing.pack([bounds.codes, bounds.scale, bounds.minimum])
    forge(path, header, tensors_of(path) | {"index": index})
    assert verifying_fails(path) == "index: a scale or minimum is not finite"
    with pytest.raises(ValueError, match="index: a scale or minimum is not finite"):
        bounds.pack(SHAPE)


def test_the_costs_are_numbers_of_seconds(tmp_path: Path) -> None:
    header = make_header()
    path = write_file(tmp_path / "x", header)
    cost = np.array([0, -1, 0], "<f8").tobytes()
    forge(path, header, tensors_of(path) | {"cost.seconds": cost})
    assert verifying_fails(path) == "cost.seconds: is negative or not finite"


@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None)
def test_blocks_cover_all_rows_once_and_keep_samples_whole(shape: Shape, seed: int) -> None:
    found = make_tables(shape, seed)
    for size in (1, 2, 3):
        blocks = found.blocks(size)
        assert [row for block in blocks for row in block] == list(range(found.token_count))
        assert (
            len(blocks) == make_header(shape, codec=replace(PLAIN, block_samples=size)).block_count
        )
        for number, block in enumerate(blocks):
            samples = {s for s in found.sample[block.start : block.stop].tolist() if s >= 0}
            mine = {int(s) for s in found.stored[number * size : (number + 1) * size]}
            assert samples <= mine
