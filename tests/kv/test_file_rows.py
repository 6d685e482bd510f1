"""What blocks of a file decode to: rows as memory has them, keys without their position."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from batch.kv import Prefix
from batch.kv.file_rows import FileRows
from batch.kv.rotation import Rotation, rotate
from cachefmt import STORED_TIERS, CacheFile, CacheFileError, Codec, Header, Shape, Tables, Tier
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt
from cachefmt.codecs.basis import Basis
from cachefmt.layout import basis_name, block_name
from tests.cachefmt.files import make_header, make_tables, write_file

SHAPE = Shape(
    layers=3,
    heads=2,
    head_dim=8,
    group_size=8,
    raw_dtype="F32",
    position_axes=2,
    samples=8,
    stored_samples=7,
    rows=2,
    columns=3,
    tokens={"FP16": 20, "INT8": 12, "INT4": 10},
    index_layers=(),
)
CODEC = Codec(name="klt", quality="custom", step=0.3, group_layers=2, block_samples=3)


def rotation(positions: Tensor) -> Rotation:
    """That of half of the channels, by both axes of a position."""
    angle = positions.float() @ torch.tensor([[0.3, 0.1], [0.05, 0.7]])
    return Rotation(cos=angle.cos().repeat(1, 2), sin=angle.sin().repeat(1, 2))


def states(tokens: int, layers: int) -> Tensor:
    """Unrotated keys and values that few directions hold; values of layer 0 are small."""
    drawn = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, layers * 2 * 2 * 8, generator=drawn)
    found = torch.randn(tokens, 6, generator=drawn) @ mixing
    found = found.view(tokens, layers, 2, 2, 8)
    found[:, 0, 1] *= 0.03
    return found + 0.01 * torch.randn(found.shape, generator=drawn)


def written(path: Path, x: Tensor) -> tuple[Header, Tables, list[Basis]]:
    """A file of these rows, and the bases in it."""
    header, tables = make_header(SHAPE, codec=CODEC), make_tables(SHAPE)
    places, content, found = tables.places(SHAPE), {}, []
    for group, layers in enumerate(header.groups()):
        packed = bases.pack(x[:, layers.start : layers.stop], CODEC.step or 0)
        content[basis_name(group)] = packed
        found.append(bases.unpack(packed, (len(layers), 2, 2, 8)))
    for number, rows in enumerate(tables.blocks(CODEC.block_samples)):
        for group, layers in enumerate(header.groups()):
            content[block_name(number, group)] = klt.encode(
                x[rows.start : rows.stop, layers.start : layers.stop],
                found[group],
                step=CODEC.step or 0,
                place=places[rows.start : rows.stop],
            )
    write_file(path, header, tables=tables, content=content)
    return header, tables, found


def within(tables: Tables, x: Tensor, group: range, basis: Basis) -> Tensor:
    """The largest error of a group's numbers that the codec may make, of each token."""
    own = x[:, group.start : group.stop]
    scale = bases.spread(basis.scale, basis.shape)
    y = basis.analyse(own, tables.places(SHAPE))
    outside = (own - basis.synthesise(y, tables.places(SHAPE))).flatten(1) / scale
    longest = float(torch.linalg.matrix_norm(basis.directions, ord=2))
    of_step = klt.LARGEST_ERROR * (CODEC.step or 0) * basis.components**0.5
    return longest * (of_step + 2**-17 * y.norm(dim=1)) + outside.norm(dim=1)


def test_rows_decode_to_within_the_codecs_bound_where_they_stand(tmp_path: Path) -> None:
    tokens = SHAPE.token_count
    x = states(tokens, SHAPE.layers)
    header, tables, found = written(tmp_path / "x", x)
    turned = rotation(torch.from_numpy(tables.position))
    with CacheFile.open(tmp_path / "x") as cache:
        assert len(cache.blocks) == 3
        rows = FileRows(cache, rotation)
        prefix = Prefix.load(cache, "cpu", rotation)
        unrotated = [
            torch.cat([rows.states(number, group) for number in range(len(rows.blocks))])
            for group in range(len(rows.groups))
        ]
    for group, (layers, basis) in enumerate(zip(header.groups(), found, strict=True)):
        scale = basis.scale[..., None, None]
        bound = within(tables, x, layers, basis)
        wrong = (unrotated[group] - x[:, layers.start : layers.stop]) / scale
        assert (wrong.flatten(1).norm(dim=1) <= bound * (1 + 1e-5)).all()
        exact = torch.from_numpy(tables.places(SHAPE)) < 0
        assert exact.any()
        assert not wrong[exact].any()
        # In memory keys stand where they did; a rotation keeps lengths.
        for layer in layers:
            raw = torch.from_numpy(tables.rows(Tier.FP16))
            key, value = (
                kind[0] for kind in (prefix.layer(layer)[0].key, prefix.layer(layer)[0].value)
            )
            there = Rotation(cos=turned.cos[raw], sin=turned.sin[raw])
            of_key = key - rotate(x[raw, layer, 0], there)
            of_value = value - x[raw, layer, 1]
            for kind, error in enumerate((of_key, of_value)):
                by = basis.scale[layer - layers.start, kind]
                assert (error.flatten(1).norm(dim=1) / by <= bound[raw] * (1 + 1e-5) + 1e-5).all()


def test_the_tiers_in_memory_hold_what_was_decoded(tmp_path: Path) -> None:
    written(tmp_path / "x", states(SHAPE.token_count, SHAPE.layers))
    with CacheFile.open(tmp_path / "x") as cache:
        rows, tables = FileRows(cache, rotation), cache.tables
        prefix = Prefix.load(cache, "cpu", rotation)
        decoded = torch.cat(
            [
                torch.cat([rows.states(number, group) for group in range(len(rows.groups))], 1)
                for number in range(len(rows.blocks))
            ]
        )
    keys = decoded[:, :, 0].flatten(1, 2)
    turned = rotate(keys, rotation(torch.from_numpy(tables.position.copy())))
    decoded[:, :, 0] = turned.view(decoded[:, :, 0].shape)
    for tier in STORED_TIERS:
        picked = decoded[torch.from_numpy(tables.rows(tier))].permute(1, 2, 0, 3, 4)
        expected = tier.codec.encode(picked, SHAPE.group_size)
        assert all(map(torch.equal, next(prefix.rows(tier, slice(None))), expected))


def test_tokens_that_are_all_the_same_have_a_basis(tmp_path: Path) -> None:
    x = states(1, SHAPE.layers).expand(SHAPE.token_count, -1, -1, -1, -1)
    written(tmp_path / "x", x)
    with CacheFile.open(tmp_path / "x") as cache:
        found = FileRows(cache, rotation).states(0, 0)
    near = x[: len(found), :2]
    assert ((found - near).flatten(1).norm(dim=1) < 0.05 * near.flatten(1).norm(dim=1)).all()


def test_a_flipped_byte_in_any_block_or_basis_is_found_and_named(tmp_path: Path) -> None:
    written(tmp_path / "x", states(SHAPE.token_count, SHAPE.layers))
    with CacheFile.open(tmp_path / "x") as cache:
        sizes = {name: cache.tensor_bytes(name) for name in cache.names}
        start = cache.header_size_bytes
    whole = (tmp_path / "x").read_bytes()
    for name, size in sizes.items():
        if name.startswith(("block.", "basis.", "tables")):
            at = start + int(np.random.default_rng(size).integers(size))
            (tmp_path / "y").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            with (
                CacheFile.open(tmp_path / "y") as cache,
                pytest.raises(CacheFileError, match=rf"y: {name} does not match its digest"),
            ):
                Prefix.load(cache, "cpu", rotation)
        start += size


def test_what_no_writer_writes_is_refused_by_the_name_of_its_block(tmp_path: Path) -> None:
    header, tables, _ = written(tmp_path / "whole", states(SHAPE.token_count, SHAPE.layers))
    with CacheFile.open(tmp_path / "whole") as cache:
        names = (name for name in cache.names if name.startswith(("basis.", "block.")))
        any_bytes = dict.fromkeys(names, b"any")
        sound = {basis_name(group): cache.basis(group) for group in range(2)}
    for content, named in (
        (any_bytes, r"basis\.00"),
        (any_bytes | sound, r"block\.00000\.00"),
    ):
        write_file(tmp_path / "x", header, tables=tables, content=content)
        with (
            CacheFile.open(tmp_path / "x") as cache,
            pytest.raises(CacheFileError, match=rf"x: {named} \(layers 0 to 1\) cannot be"),
        ):
            Prefix.load(cache, "cpu", rotation)


def test_keys_without_position_need_to_know_how_a_model_rotates(tmp_path: Path) -> None:
    written(tmp_path / "x", states(SHAPE.token_count, SHAPE.layers))
    with (
        CacheFile.open(tmp_path / "x") as cache,
        pytest.raises(ValueError, match="need the rotation of their model"),
    ):
        Prefix.load(cache, "cpu")


def test_a_calibration_that_is_not_there_is_named(tmp_path: Path) -> None:
    codec = replace(CODEC, calibration="7" * 64)
    write_file(tmp_path / "x", make_header(SHAPE, codec=codec))
    with (
        CacheFile.open(tmp_path / "x") as cache,
        pytest.raises(CacheFileError, match=r"x: needs the calibration with SHA-256 77777777"),
    ):
        Prefix.load(cache, "cpu", rotation)
