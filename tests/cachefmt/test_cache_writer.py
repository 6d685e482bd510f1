"""A cache file appears whole under its name, or not at all."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cachefmt import CacheFile, CacheFileError, CacheWriter, tensor_specs
from tests.cachefmt.files import SHAPE, make_arrays, make_header, write_file

ROOT = Path(__file__).parents[2]
NAME = "layers.0.key.int8"

HALF_A_FILE = """
import sys, time
from pathlib import Path
from cachefmt import CacheWriter
from tests.cachefmt.files import make_arrays, make_header
with CacheWriter(Path(sys.argv[1]), make_header()) as writer:
    for name, array in make_arrays().items():
        writer.write(name, 0, array[:1])
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


def test_a_killed_writer_leaves_an_older_file_as_it_was_and_no_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    before = write_file(old, arrays=make_arrays(seed=1)).read_bytes()
    unfinished = {f".{path.name}.{killed_while_writing(path)}.tmp" for path in (old, new)}
    assert old.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {old.name, *unfinished}


def test_finishing_replaces_an_older_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x", arrays=make_arrays(seed=1))
    write_file(path, arrays=make_arrays(seed=2))
    with CacheFile.open(path) as cache:
        assert np.array_equal(cache.array(NAME), make_arrays(seed=2)[NAME])
    assert list(tmp_path.iterdir()) == [path]


def test_leaving_without_finish_removes_the_temporary_file(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), CacheWriter(tmp_path / "x", make_header()):
        assert len(list(tmp_path.iterdir())) == 1
        raise ZeroDivisionError
    with CacheWriter(tmp_path / "x", make_header()) as writer:
        writer.write(NAME, 0, make_arrays()[NAME])
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_of_the_same_id_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".x.{os.getpid()}.tmp").write_bytes(b"x" * 100_000)
    path = write_file(tmp_path / "x")
    assert path.read_bytes() == write_file(tmp_path / "y").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x", "y"]


def test_a_writer_whose_temporary_file_was_replaced_publishes_nothing(tmp_path: Path) -> None:
    with (
        CacheWriter(tmp_path / "x", make_header()) as first,
        CacheWriter(tmp_path / "x", make_header()) as second,
    ):
        for name, array in make_arrays().items():
            first.write(name, 0, array)
            second.write(name, 0, array)
        with pytest.raises(CacheFileError, match="another writer replaced"):
            first.finish()
        second.finish()
    with CacheFile.open(tmp_path / "x") as cache:
        cache.verify()


def test_the_file_is_allocated_to_its_full_size_at_once(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "x", make_header()) as writer:
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_size == writer.size_bytes


@pytest.mark.parametrize("name", list(tensor_specs(SHAPE)))
def test_a_missing_row_is_named_and_nothing_is_published(tmp_path: Path, name: str) -> None:
    with CacheWriter(tmp_path / "x", make_header()) as writer:
        for other, array in make_arrays().items():
            writer.write(other, 0, array[1:] if other == name else array)
        with pytest.raises(CacheFileError) as caught:
            writer.finish()
    rows = len(make_arrays()[name])
    expected = f"{tmp_path / 'x'}: {name}: {rows - 1} of {rows} rows were written"
    assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []


def test_tables_that_break_a_rule_are_not_published(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["token.multiplicity"][2] = 0
    with pytest.raises(CacheFileError, match=r"x: token\.multiplicity, row 2: is below 1"):
        write_file(tmp_path / "x", arrays=arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "row", "array", "message"),
    [
        ("nonsense", 0, np.zeros(1), "has no tensor 'nonsense'"),
        (NAME, 0, np.zeros((1, 2, 8), "u1"), "got uint8, expected int8 for I8"),
        (NAME, 0, np.zeros((1, 2, 7), "i1"), r"got shape \(1, 2, 7\)"),
        (NAME, 0, np.zeros((2, 8), "i1"), r"got shape \(2, 8\)"),
        (NAME, 2, np.zeros((2, 2, 8), "i1"), "rows 2 to 4 do not fit its 3 rows"),
        (NAME, -1, np.zeros((1, 2, 8), "i1"), "rows -1 to 0 do not fit"),
        (
            "layers.0.key.fp16",
            0,
            np.zeros((1, 2, 8), "f2"),
            "got float16, expected uint16 for BF16",
        ),
        ("token.sample", 0, np.zeros(1, ">i4"), "got >i4, expected int32"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, row: int, array: np.ndarray, message: str
) -> None:
    with (
        CacheWriter(tmp_path / "x", make_header()) as writer,
        pytest.raises(ValueError, match=message),
    ):
        writer.write(name, row, array)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (2, 3), (0, 3), (1, 3)])
def test_rows_are_written_once(tmp_path: Path, start: int, stop: int) -> None:
    rows = make_arrays()[NAME]
    with CacheWriter(tmp_path / "x", make_header()) as writer:
        for row in (2, 0, 1):
            writer.write(NAME, row, rows[row : row + 1])
        with pytest.raises(ValueError, match="were written in part already"):
            writer.write(NAME, start, rows[start:stop])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "x"
    with pytest.raises(CacheFileError, match="No such file") as caught:
        CacheWriter(path, make_header()).__enter__()
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
    with pytest.raises(raised, match=message), CacheWriter(tmp_path / "x", make_header()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_not_open_refuses(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "x", make_header())
    with pytest.raises(ValueError, match="is not open"):
        writer.write(NAME, 0, make_arrays()[NAME])
    with pytest.raises(ValueError, match="is not open"):
        writer.finish()
