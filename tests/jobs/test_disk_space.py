import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.disk_space import DiskSpace, parse_size
from jobs.errors import NoSpaceError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("7b", 7),
        ("500G", 500 * 10**9),
        ("1.5TB", 15 * 10**11),
        ("200GiB", 200 * 2**30),
        ("1 k", 1000),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1e9", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


def test_a_quota_counts_what_is_there_and_what_is_added(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "there").write_bytes(bytes(60))
    space = DiskSpace(tmp_path, 100)
    space.allowance().check(40)
    with pytest.raises(NoSpaceError, match=r"40 bytes of it are left, the next file has 41"):
        space.allowance().check(41)
    space.add(30)
    space.allowance().check(10)
    with pytest.raises(NoSpaceError, match="--max-bytes is reached"):
        space.allowance().check(11)


def test_counting_a_large_folder_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    counted = []

    def walk(folder: Path) -> Iterator[Any]:
        clock["now"] += 30.0
        counted.append(clock["now"])
        return iter(())

    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("os.walk", walk)
    space = DiskSpace(tmp_path, 100)
    for _ in range(1000):
        space.allowance()
        clock["now"] += 3.0
    assert 30.0 * len(counted) < 0.06 * clock["now"]


def test_unfinished_files_do_not_count_twice(tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "unfinished").write_bytes(bytes(60))
    DiskSpace(tmp_path, 100).allowance().check(100)


def test_a_file_larger_than_the_free_disk_is_refused_without_a_quota_too(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    allowance = DiskSpace(tmp_path, None).allowance()
    allowance.check(1)
    with pytest.raises(NoSpaceError, match="the disk has"):
        allowance.check(2 * disk.f_blocks * disk.f_frsize)
