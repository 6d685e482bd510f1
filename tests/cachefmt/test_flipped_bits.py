"""A flipped bit anywhere in a file is found, and named; what it did not hit is still read."""

import random
from pathlib import Path

import pytest

from cachefmt import CacheFile, CacheFileError
from tests.cachefmt.files import KLT, PLAIN, make_header, split_file, write_file
from tests.cachefmt.test_golden_cache import KLT_GOLDEN, PLAIN_GOLDEN


def check_flips(path: Path, content: bytes, bits: list[int]) -> None:
    """Flip each of these bits of a file, and see that it is found."""
    path.write_bytes(content)
    with CacheFile.open(path) as cache:
        sizes = {name: cache.tensor_bytes(name) for name in cache.names}
        start = cache.header_size_bytes
    owner = [name for name, size in sizes.items() for _ in range(size)]
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            at = bit // 8
            flipped = bytes([content[at] ^ 1 << bit % 8])
            file.seek(at)
            file.write(flipped)
            if at < start:
                with pytest.raises(CacheFileError, match=path.name):
                    CacheFile.open(path)
            else:
                check_damage(path, owner[at - start])
            file.seek(at)
            file.write(content[at : at + 1])
    with CacheFile.open(path) as cache:
        cache.verify()


def check_damage(path: Path, damaged: str) -> None:
    """The one damaged tensor is named, and all other blocks are whole."""
    with CacheFile.open(path) as cache:
        with pytest.raises(CacheFileError) as caught:
            cache.verify()
        problem = f"{path}: {damaged} does not match its digest: it was changed or damaged"
        assert str(caught.value) == problem
        for number in range(cache.header.block_count):
            for group in range(cache.header.group_count):
                if damaged != f"block.{number:05}.{group:02}":
                    cache.block(number, group)


def test_a_flipped_bit_in_each_byte_of_a_small_file_is_found(tmp_path: Path) -> None:
    content = KLT_GOLDEN.read_bytes()
    drawn = random.Random(0)
    bits = [8 * at + drawn.randrange(8) for at in range(len(content))]
    check_flips(tmp_path / "x", content, bits)


@pytest.mark.parametrize("codec", [PLAIN, KLT])
def test_random_flipped_bits_of_other_files_are_found(tmp_path: Path, codec: object) -> None:
    content = write_file(tmp_path / "whole", make_header(codec=codec)).read_bytes()
    drawn = random.Random(1)
    json_bytes, _ = split_file(tmp_path / "whole")
    data = range(8 * (8 + len(json_bytes)), 8 * len(content))
    check_flips(tmp_path / "x", content, drawn.sample(data, min(500, len(data))))


@pytest.mark.long
@pytest.mark.parametrize("golden", [KLT_GOLDEN, PLAIN_GOLDEN])
def test_every_flipped_bit_of_a_small_file_is_found(tmp_path: Path, golden: Path) -> None:
    content = golden.read_bytes()
    check_flips(tmp_path / "x", content, list(range(8 * len(content))))
