"""A cache file appears whole under its name, or not at all."""

import errno
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cachefmt import CacheFile, CacheFileError, CacheWriter, Codec, Fidelity
from cachefmt.layout import largest_sizes
from tests.cachefmt.files import (
    KLT,
    PLAIN,
    SHAPE,
    make_bounds,
    make_content,
    make_header,
    make_tables,
    write_file,
)

ROOT = Path(__file__).parents[2]

HALF_A_FILE = """
import sys, time
from pathlib import Path
from cachefmt import CacheWriter
from tests.cachefmt.files import make_content, make_header, make_tables
header, tables = make_header(), make_tables()
with CacheWriter(Path(sys.argv[1]), header, tables) as writer:
    writer.write_block(0, 0, make_content(header, tables)["block.00000.00"])
    print("half", flush=True)
    time.sleep(60)
"""


def killed_while_writing(path: Path) -> int:
    """Kill a writer that has written half a file; its process id."""
    command = [sys.executable, "-c", HALF_A_FILE, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return process.pid


def fill(writer: CacheWriter, without: str = "", seed: int = 0) -> None:
    """All that the file must have, but for one tensor and what would follow it."""
    tables = make_tables(writer.header.shape)
    for name, data in make_content(writer.header, tables, seed).items():
        if name == without:
            return
        kind, *numbers = name.split(".")
        if kind == "basis":
            writer.write_basis(int(numbers[0]), data)
        else:
            writer.write_block(int(numbers[0]), int(numbers[1]), data)
    if without != "index":
        writer.write_index(make_bounds(writer.header.shape))


def open_writer(path: Path, codec: Codec = PLAIN) -> CacheWriter:
    return CacheWriter(path, make_header(codec=codec), make_tables())


def write_seeded(path: Path, seed: int) -> Path:
    header, tables = make_header(), make_tables()
    return write_file(path, header, tables=tables, content=make_content(header, tables, seed))


def test_a_killed_writer_leaves_an_older_file_as_it_was_and_no_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    before = write_seeded(old, 1).read_bytes()
    unfinished = {f".{path.name}.{killed_while_writing(path)}.tmp" for path in (old, new)}
    assert old.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {old.name, *unfinished}


def test_finishing_replaces_an_older_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = write_seeded(tmp_path / "x", 1)
    write_seeded(path, 2)
    with CacheFile.open(path) as cache:
        expected = make_content(make_header(), make_tables(), 2)
        assert cache.block(1, 0) == expected["block.00001.00"]
    assert list(tmp_path.iterdir()) == [path]


def test_leaving_without_finish_removes_the_temporary_file(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), open_writer(tmp_path / "x"):
        assert len(list(tmp_path.iterdir())) == 1
        raise ZeroDivisionError
    with open_writer(tmp_path / "x") as writer:
        fill(writer)
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_of_the_same_id_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".x.{os.getpid()}.tmp").write_bytes(b"x" * 100_000)
    path = write_file(tmp_path / "x")
    assert path.read_bytes() == write_file(tmp_path / "y").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x", "y"]


def test_a_writer_whose_temporary_file_was_replaced_publishes_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "x") as first, open_writer(tmp_path / "x") as second:
        fill(first)
        fill(second)
        with pytest.raises(CacheFileError, match="another writer replaced"):
            first.finish([0, 0, 0])
        second.finish([0, 0, 0])
    with CacheFile.open(tmp_path / "x") as cache:
        cache.verify()


def test_room_for_a_plain_file_is_taken_at_once_and_that_of_klt_grows(tmp_path: Path) -> None:
    for codec in (PLAIN, KLT):
        with open_writer(tmp_path / "x", codec) as writer:
            (temporary,) = tmp_path.iterdir()
            is_whole = temporary.stat().st_size == writer.size_bytes
            assert is_whole == (codec is PLAIN)
            fill(writer)
            writer.finish([0, 0, 0])
        assert (tmp_path / "x").stat().st_size < writer.size_bytes  # the index has a bound
        (tmp_path / "x").unlink()


NAMES = ["block.00000.00", "block.00000.01", "block.00001.01", "basis.00", "basis.01", "index"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_named_and_nothing_is_published(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / "x", KLT) as writer:
        fill(writer, without=name)
        with pytest.raises(CacheFileError) as caught:
            writer.finish([0, 0, 0])
    assert str(caught.value) == f"{tmp_path / 'x'}: {name} was not written"
    assert list(tmp_path.iterdir()) == []


def test_what_comes_out_of_order_twice_or_beyond_the_end_is_refused(tmp_path: Path) -> None:
    content = make_content(make_header(codec=KLT), make_tables())
    basis, block = content["basis.00"], content["block.00000.00"]
    with open_writer(tmp_path / "x", KLT) as writer:
        with pytest.raises(ValueError, match=r"got block\.00000\.00, expected \['basis\.00'\]"):
            writer.write_block(0, 0, block)
        writer.write_basis(0, basis)
        with pytest.raises(ValueError, match=r"got basis\.00, expected \['basis\.01'\]"):
            writer.write_basis(0, basis)
    with open_writer(tmp_path / "x") as writer:
        fill(writer)
        with pytest.raises(ValueError, match=r"got block\.00002\.00, expected \[\]"):
            writer.write_block(2, 0, b"")


def test_a_plain_block_has_its_exact_size_and_one_of_klt_no_more_than_its_bound(
    tmp_path: Path,
) -> None:
    most = largest_sizes(make_header(codec=KLT), make_tables())
    block = make_content(make_header(), make_tables())["block.00000.00"]
    with open_writer(tmp_path / "x") as writer:
        for data in (block[1:], block + b"0"):
            with pytest.raises(ValueError, match=rf"has {len(data)} bytes, expected {len(block)}$"):
                writer.write_block(0, 0, data)
    with open_writer(tmp_path / "x", KLT) as writer:
        writer.write_basis(0, bytes(most["basis.00"]))
        with pytest.raises(ValueError, match=r"basis\.01 has \d+ bytes"):
            writer.write_basis(1, bytes(most["basis.01"] + 1))


def test_bounds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bounds = make_bounds()
    with (
        open_writer(tmp_path / "x") as writer,
        pytest.raises(ValueError, match=r"index: got uint8 \(1, 1, 2, 2, 4\), expected"),
    ):
        writer.write_index(replace(bounds, codes=bounds.codes[1:]))
    header = make_header(replace(SHAPE, index_layers=()))
    with (
        CacheWriter(tmp_path / "x", header, make_tables()) as writer,
        pytest.raises(ValueError, match=r"index: got uint8 \(2, 1, 2, 2, 4\), expected"),
    ):
        writer.write_index(bounds)


@pytest.mark.parametrize("seconds", [[1, 2], [1, 2, -1], [1, 2, math.nan], [1, 2, math.inf]])
def test_costs_that_are_none_are_refused(tmp_path: Path, seconds: list[float]) -> None:
    with open_writer(tmp_path / "x") as writer:
        fill(writer)
        with pytest.raises(ValueError, match=r"cost\.seconds: got \[1, 2"):
            writer.finish(seconds)


def test_the_longest_fidelity_has_room_in_the_header(tmp_path: Path) -> None:
    longest = Fidelity(
        kl=sys.float_info.max,
        agreement=sys.float_info.min,
        questions=2**32 - 1,
        tokens=2**32 - 1,
    )
    path = write_file(tmp_path / "x", fidelity=longest)
    assert path.stat().st_size == write_file(tmp_path / "y").stat().st_size
    with CacheFile.open(path) as cache:
        assert cache.header.fidelity == longest


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "x"
    with pytest.raises(CacheFileError, match="No such file") as caught:
        open_writer(path).__enter__()
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space"), CacheFileError, r"cannot write \d+ bytes: No space"),
        (KeyboardInterrupt("while allocating"), KeyboardInterrupt, "while allocating"),
    ],
)
def test_a_full_disk_or_an_interruption_before_the_first_row_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    message: str,
) -> None:
    def fail(*_: int) -> None:
        raise error

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(raised, match=message), open_writer(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_writer(tmp_path / "x", KLT) as writer:

        def fail(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space")

        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(CacheFileError, match=r"x: cannot write \d+ bytes: No space"):
            fill(writer)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_not_open_refuses(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "x")
    for write in (
        lambda: writer.write_block(0, 0, b""),
        lambda: writer.write_index(make_bounds()),
        lambda: writer.finish([0, 0, 0]),
    ):
        with pytest.raises(ValueError, match="is not open"):
            write()
