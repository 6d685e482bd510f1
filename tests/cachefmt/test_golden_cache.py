"""The bytes of small files, recorded: an accidental change of the format fails here.

After a meant change (FORMAT.md and the version say so) record again:
`python -m tests.cachefmt.test_golden_cache`.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from cachefmt import CacheFile, Codec, Fidelity, Header, Tables
from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt
from cachefmt.layout import largest_sizes
from tests.cachefmt.breaking import tensors_of
from tests.cachefmt.files import SHAPE, make_header, split_file, write_file
from tests.cachefmt.stranger import Stranger

HERE = Path(__file__).parent
PLAIN_GOLDEN, KLT_GOLDEN = HERE / "golden_plain.safetensors", HERE / "golden_klt.safetensors"
GOLDEN_SHAPE = replace(SHAPE, layers=1, tokens={"FP16": 2, "INT8": 4, "INT4": 6})
FIDELITY = Fidelity(kl=0.0125, agreement=0.975, questions=3, tokens=12)


def tables() -> Tables:
    """Content that depends on no random generator, as that of all golden files."""
    return Tables(
        time_s=np.array([0.0, 0.5, 1.5]),
        source=np.array([0, 1, 1], np.int32),
        tier=np.array([0, 1, 2, 2, 1, 2, 0, 1, 2, 2, 2, 1], np.uint8),
        sample=np.array([-1, 0, 0, 0, 0, 0, -1, 1, 1, 1, 1, 1], np.int32),
        cell=np.array([-1, 0, 1, 3, 5, -1, -1, 0, 1, 2, 5, -1], np.int32),
        multiplicity=np.array([1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2], np.int32),
        position=np.array([0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 14, 15], np.int32)[:, None],
    )


def header(codec: Codec) -> Header:
    return make_header(GOLDEN_SHAPE, codec=codec)


def write_plain(path: Path) -> Path:
    golden = header(Codec(name="plain", quality="lossless", group_layers=1, block_samples=1))
    content = {
        name: ((np.arange(size) * 7) % 251).astype(np.uint8).tobytes()
        for name, size in largest_sizes(golden, tables()).items()
        if name.startswith("block.")
    }
    return write_file(path, golden, tables=tables(), content=content, fidelity=FIDELITY)


def write_klt(path: Path) -> Path:
    golden = header(Codec(name="klt", quality="small", step=0.25, group_layers=1, block_samples=2))
    place = tables().places(GOLDEN_SHAPE)
    waves = np.sin(np.outer(place + 2, np.arange(1, 33)))  # a place's, then a little more
    rows = torch.from_numpy(waves + np.linspace(0, 1, 12)[:, None]).view(-1, 1, 2, 2, 8).bfloat16()
    packed = bases.pack(rows[place >= 0], 0.25)
    block = klt.encode(rows, bases.unpack(packed, (1, 2, 2, 8)), step=0.25, place=place)
    content = {"basis.00": packed, "block.00000.00": block}
    return write_file(path, golden, tables=tables(), content=content, fidelity=FIDELITY)


def test_a_written_file_is_byte_for_byte_the_recorded_one_but_for_its_frame(
    tmp_path: Path,
) -> None:
    written, recorded = write_plain(tmp_path / "x"), PLAIN_GOLDEN
    ours, theirs = tensors_of(written), tensors_of(recorded)
    assert list(ours) == list(theirs)
    for name, data in ours.items():
        if name == "tables":  # another zstandard may pack it otherwise
            assert zstandard.decompress(data) == zstandard.decompress(theirs[name])
        else:
            assert data == theirs[name]
    metadata = [json.loads(split_file(path)[0])["__metadata__"] for path in (written, recorded)]
    # As may another zlib the header.
    if ours["tables"] == theirs["tables"] and metadata[0] == metadata[1]:
        assert written.read_bytes() == recorded.read_bytes()
    headers = [Stranger(path.read_bytes()).header for path in (written, recorded)]
    for one in headers:
        del one["digests"], one["header_sha256"]
    assert headers[0] == headers[1]


@pytest.mark.parametrize("golden", [PLAIN_GOLDEN, KLT_GOLDEN])
def test_a_recorded_file_still_opens_with_what_is_in_it(golden: Path, tmp_path: Path) -> None:
    with CacheFile.open(shutil.copy(golden, tmp_path)) as cache:
        cache.verify()
        assert cache.header.shape == GOLDEN_SHAPE
        assert cache.header.fidelity == FIDELITY
        for name in ("time_s", "source", "tier", "sample", "cell", "multiplicity", "position"):
            assert np.array_equal(getattr(cache.tables, name), getattr(tables(), name))


def test_recorded_rows_decode_to_the_same_numbers_for_ever() -> None:
    theirs = Stranger(KLT_GOLDEN.read_bytes())
    expected = theirs.klt(0, 0, theirs.basis(0))
    with CacheFile.open(KLT_GOLDEN) as cache:
        found = klt.decode(
            cache.block(0, 0),
            bases.unpack(cache.basis(0), (1, 2, 2, 8)),
            place=cache.tables.places(GOLDEN_SHAPE),
            dtype=torch.bfloat16,
        )
    assert np.allclose(found.float().flatten(1).numpy(), expected, rtol=2**-7, atol=1e-5)
    coded = cache.tables.places(GOLDEN_SHAPE) >= 0
    waves = np.sin(np.outer(cache.tables.places(GOLDEN_SHAPE) + 2, np.arange(1, 33)))
    true = waves + np.linspace(0, 1, 12)[:, None]
    assert np.abs(expected - true)[coded].mean() < 0.15
    assert theirs.seen_modes == {0, 1}


if __name__ == "__main__":
    write_plain(PLAIN_GOLDEN)
    write_klt(KLT_GOLDEN)
