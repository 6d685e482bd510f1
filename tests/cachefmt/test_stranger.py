"""A stranger's reader, written from FORMAT.md alone, reads what we write."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import cachefmt
from cachefmt import STORED_TIERS, Codec, Header, Shape, Tables
from cachefmt.calibration import Calibration, CalibrationHeader, CalibrationShape, write_calibration
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt, plain
from cachefmt.codecs.basis import Moments
from tests.cachefmt import stranger
from tests.cachefmt.files import (
    KLT,
    PLAIN,
    SHAPE,
    make_bounds,
    make_header,
    make_tables,
    write_file,
)
from tests.cachefmt.stranger import Stranger

FORMAT = Path(cachefmt.__file__).with_name("FORMAT.md").read_text()
FILM = replace(
    SHAPE,
    layers=3,
    samples=6,
    stored_samples=5,
    tokens={"FP16": 20, "INT8": 12, "INT4": 10},
    raw_dtype="F16",
)
"""Almost all cells of five samples, and text."""
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def rows_of(shape: Shape, tables: Tables) -> Tensor:
    """Rows [tokens, layers, 2, heads, head_dim] that change slowly at each place."""
    drawn = torch.Generator().manual_seed(0)
    size = (shape.layers, 2, shape.heads, shape.head_dim)
    place = torch.from_numpy(tables.places(shape) + 1)
    by_place = 3 * torch.randn(int(place.max()) + 1, *size, generator=drawn)
    time = torch.from_numpy(np.maximum(tables.sample, 0)).view(-1, 1, 1, 1, 1)
    change = torch.randn(*size, generator=drawn) * (time > 2)  # still, then different
    return (by_place[place] + 0.5 * change * time).to(DTYPES[shape.raw_dtype])


def codec(**changes: object) -> Codec:
    return replace(KLT, step=0.5, group_layers=2, block_samples=2, **changes)


def klt_content(
    header: Header, tables: Tables, rows: Tensor, given: list[bases.Basis] | None
) -> dict[str, bytes]:
    place = tables.places(header.shape)
    blocks = tables.blocks(header.codec.block_samples, header.codec.text_tokens)
    content, made = {}, given or []
    for group, layers in enumerate(header.groups()):
        if given is None:
            x = rows[place >= 0, layers.start : layers.stop]
            content[f"basis.{group:02}"] = bases.pack(x, 0.5)
            made.append(bases.unpack(content[f"basis.{group:02}"], bases.shape_of(x)))
    for number, block in enumerate(blocks):
        for group, layers in enumerate(header.groups()):
            x = rows[block.start : block.stop, layers.start : layers.stop]
            data = klt.encode(x, made[group], step=0.5, place=place[block.start : block.stop])
            content[f"block.{number:05}.{group:02}"] = data
    return content


@pytest.mark.parametrize("raw_dtype", ["F16", "BF16", "F32"])
def test_a_stranger_decodes_blocks_by_the_basis_in_the_file(tmp_path: Path, raw_dtype: str) -> None:
    shape = replace(FILM, raw_dtype=raw_dtype)
    header, tables = make_header(shape, codec=codec()), make_tables(shape)
    rows = rows_of(shape, tables)
    content = klt_content(header, tables, rows, None)
    path = write_file(tmp_path / "x", header, tables=tables, content=content)
    theirs = Stranger(path.read_bytes())
    theirs.check_digests()
    place = tables.places(shape)
    for number, block in enumerate(tables.blocks(2)):
        assert theirs.rows_of_block(number) == block
        for group, layers in enumerate(header.groups()):
            found = theirs.klt(number, group, theirs.basis(group))
            vector = (len(layers), 2, shape.heads, shape.head_dim)
            ours = klt.decode(
                content[f"block.{number:05}.{group:02}"],
                bases.unpack(content[f"basis.{group:02}"], vector),
                place=place[block.start : block.stop],
                dtype=torch.float32 if raw_dtype == "F32" else DTYPES[raw_dtype],
            )
            rounded = {"F16": 2**-10, "BF16": 2**-7, "F32": 1e-6}[raw_dtype]
            assert np.allclose(found, ours.float().flatten(1).numpy(), rtol=rounded, atol=1e-5)
            true = rows[block.start : block.stop, layers.start : layers.stop].float().flatten(1)
            assert np.abs(found - true.numpy()).mean() < 0.2
            exact = place[block.start : block.stop] < 0
            assert np.array_equal(found[exact], true.numpy()[exact])
    assert theirs.seen_modes == {0, 1, 2}


def write_calibration_of(path: Path, header: Header, tables: Tables, rows: Tensor) -> Calibration:
    """A calibration made of these rows, with a mean for each place and the text before all."""
    shape, place = header.shape, tables.places(header.shape)
    text = range(int((np.maximum.accumulate(tables.sample) < 0).sum()))
    coded, places = place >= 0, int(place.max()) + 2
    groups, components = header.groups(), list[int]()
    tensors: dict[str, NDArray[Any]] = {"text.rows": rows[: len(text)].numpy()}
    for number, layers in enumerate(groups):
        moments = Moments((len(layers), 2, shape.heads, shape.head_dim))
        x = rows[coded, layers.start : layers.stop]
        moments.add(x, place[coded])
        scale = moments.scale(moments.mean())
        variance, directions = moments.principal(moments.mean(), scale, 20, 1e-3)
        components.append(len(variance))
        gain, packed = bases.round_directions(variance, directions, 0.25)
        directions = bases.read_directions(packed, gain, directions.shape[1])
        made = bases.Basis(
            shape=moments.shape, mean=moments.mean(), scale=scale, directions=directions
        )
        offsets = torch.zeros(places, len(directions))
        for at in range(places - 1):
            if (place == at).any():
                offsets[at] = made.analyse(
                    rows[place == at, layers.start : layers.stop], place[place == at]
                ).mean(0)
        of_group = {
            "scale": scale,
            "gain": gain,
            "mean": moments.mean()[0].half(),
            "place": offsets.half(),
            "directions": torch.tensor(list(packed), dtype=torch.uint8),
        }
        tensors |= {f"{part}.{number:02}": of.numpy() for part, of in of_group.items()}
    calibration = CalibrationHeader(
        tool="0.1.0",
        model=header.model,
        prompt=header.prompt,
        shape=CalibrationShape(
            layers=shape.layers,
            heads=shape.heads,
            head_dim=shape.head_dim,
            group_layers=header.codec.group_layers,
            raw_dtype=shape.raw_dtype,
            rows=shape.rows,
            columns=shape.columns,
            places=places,
            components=tuple(components),
        ),
        text_ids=tuple(text),
        videos=(header.video,),
        tokens=int(coded.sum()),
        most_components=20,
        data_sha256="0" * 64,
    )
    write_calibration(path, calibration, tensors)
    return Calibration.open(path)


def test_a_stranger_decodes_blocks_by_a_calibration(tmp_path: Path) -> None:
    tables = make_tables(FILM)
    rows, place = rows_of(FILM, tables), tables.places(FILM)
    header = make_header(FILM, codec=codec())
    file = tmp_path / "demo.calibration.safetensors"
    calibration = write_calibration_of(file, header, tables, rows)
    text_tokens = len(calibration.header.text_ids)
    assert text_tokens > 0
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    header = make_header(FILM, codec=codec(calibration=digest, text_tokens=text_tokens))
    ours = calibration.bases(FILM.rows, FILM.columns)
    content = klt_content(header, tables, rows, ours)
    path = write_file(tmp_path / "x", header, tables=tables, content=content)
    theirs = Stranger(path.read_bytes())
    assert not any(name.startswith("basis") for name in theirs.table)
    text = stranger.safetensors_array(file.read_bytes(), "text.rows")
    assert np.array_equal(text, rows[:text_tokens].numpy())
    for number, block in enumerate(tables.blocks(2, text_tokens)):
        for group, layers in enumerate(header.groups()):
            places = int(place.max()) + 1
            basis = stranger.Basis.calibrated(file.read_bytes(), group, places)
            found = theirs.klt(number, group, basis)
            expected = klt.decode(
                content[f"block.{number:05}.{group:02}"],
                ours[group],
                place=place[block.start : block.stop],
                dtype=torch.float16,
            )
            expected = expected.float().flatten(1).numpy()
            assert np.allclose(found, expected, rtol=2**-10, atol=1e-4)
            true = rows[block.start : block.stop, layers.start : layers.stop].float().flatten(1)
            assert np.abs(found - true.numpy()).mean() < 0.2


def test_a_stranger_reads_a_block_that_was_kept_exactly(tmp_path: Path) -> None:
    header, tables = make_header(FILM, codec=codec()), make_tables(FILM)
    rows = torch.randn(len(tables.tier), 3, 2, 2, 8).half() * 1000
    place = tables.places(FILM)
    content = klt_content(header, tables, rows, None)
    block = tables.blocks(2)[1]
    identity = bases.Basis(
        shape=(2, 2, 2, 8),
        mean=torch.zeros(1, 64),
        scale=torch.ones(2, 2),
        directions=torch.eye(64),
    )
    x = rows[block.start : block.stop, :2]
    data = klt.encode(x, identity, step=1e-3, place=place[block.start : block.stop])
    assert data.startswith(b"\xff\xff\xff\xff")
    content["block.00001.00"] = data
    path = write_file(tmp_path / "x", header, tables=tables, content=content)
    theirs = Stranger(path.read_bytes())
    found = theirs.klt(1, 0, theirs.basis(0))
    assert np.array_equal(found, x.float().flatten(1).numpy())


def test_a_stranger_decodes_plain_blocks(tmp_path: Path) -> None:
    shape = replace(FILM, raw_dtype="BF16")
    header = make_header(shape, codec=replace(PLAIN, block_samples=2))
    tables = make_tables(shape)
    rows, content, expected = rows_of(shape, tables), {}, {}
    for number, block in enumerate(tables.blocks(2)):
        for group, layers in enumerate(header.groups()):
            parts = {}
            for tier in STORED_TIERS:
                mine = [row for row in block if tables.tier[row] == tier]
                x = rows[mine, layers.start : layers.stop].permute(1, 2, 0, 3, 4)
                parts[tier] = tier.codec.encode(x, shape.group_size)
                expected[number, group, tier.name] = tier.codec.decode(*parts[tier]).numpy()
            content[f"block.{number:05}.{group:02}"] = plain.encode(parts)
            back = plain.decode(
                content[f"block.{number:05}.{group:02}"],
                shape,
                layers=len(layers),
                counts=tables.counts(block),
            )
            for tier in STORED_TIERS:
                for one, other in zip(parts[tier], back[tier], strict=True):
                    assert torch.equal(one, other)
                    assert one.dtype == other.dtype
    path = write_file(tmp_path / "x", header, tables=tables, content=content)
    theirs = Stranger(path.read_bytes())
    for (number, group, tier_name), rows_ in expected.items():
        assert np.array_equal(theirs.plain(number, group)[tier_name], rows_)


@pytest.mark.parametrize("axes", [1, 3])
def test_a_stranger_reads_the_tables(tmp_path: Path, axes: int) -> None:
    shape = replace(FILM, position_axes=axes)
    tables = make_tables(shape, seed=3)
    path = write_file(tmp_path / "x", make_header(shape, codec=codec()), tables=tables)
    theirs = Stranger(path.read_bytes())
    for name, column in theirs.tables().items():
        assert np.array_equal(column, getattr(tables, name)), name
    assert np.array_equal(theirs.places(), tables.places(shape))


def test_a_stranger_reads_the_index(tmp_path: Path) -> None:
    shape = replace(FILM, index_layers=(0, 2))
    theirs = Stranger(write_file(tmp_path / "x", make_header(shape)).read_bytes())
    for name, column in theirs.index().items():
        assert np.array_equal(column, getattr(make_bounds(shape), name)), name


def test_the_page_names_every_header_key_and_every_tensor(tmp_path: Path) -> None:
    theirs = Stranger(write_file(tmp_path / "x", make_header(codec=KLT)).read_bytes())
    names = {name.split(".")[0] for name in theirs.table}
    names = {{"block": "block.NNNNN.GG", "basis": "basis.GG"}.get(name, name) for name in names}
    names = {"cost.seconds" if name == "cost" else name for name in names}
    for part, value in theirs.header.items():
        names |= {part}
        if isinstance(value, dict) and part != "policy":
            names |= {key for key in value if key not in ("major", "minor")}
    names |= {"kl", "agreement", "questions", *theirs.tables()}
    for name in names:
        assert f"`{name}`" in FORMAT, name
