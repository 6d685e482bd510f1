"""Folders for results are looked at before any work, and refusals to write name the file."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.atomic import check_folder, write_errors, write_whole
from jobs.errors import JobError, NoSpaceError


def test_a_folder_that_could_be_made_is_not_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match=rf"cannot be made: {tmp_path / 'file'} is a file"):
        check_folder(tmp_path / "file" / "a" / "b")


@pytest.mark.parametrize(("flag", "why"), [(os.ST_RDONLY, "read-only"), (0, "no permission")])
def test_a_folder_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int, why: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flag))
    with pytest.raises(JobError, match=f"{tmp_path}: this folder cannot be written: .*{why}"):
        check_folder(tmp_path / "new" / "folder")


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be written: File name too long"):
        write_whole(tmp_path / ("a" * 255), b"")


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(NoSpaceError, match="No space left on device; make room and run the same"),
        write_errors(tmp_path / "x"),
    ):
        raise full
