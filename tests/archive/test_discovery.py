"""What a walk over the archive finds, on file systems as they are."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch.archive.discovery import Scan, scan_archive
from batch.archive.inventory import Inventory
from batch.errors import BatchError
from jobs.shards import Shard


def scan(archive: Path, shard: Shard | None = None) -> Scan:
    known = archive.parent / "files"
    return scan_archive(archive, Inventory.read(known, "run"), skip=known, shard=shard or Shard())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


def test_links_that_lead_in_a_circle_are_files_that_must_be_looked_at(archive: Path) -> None:
    (archive / "a.mp4").symlink_to("b.mp4")
    (archive / "b.mp4").symlink_to("a.mp4")
    (archive / "self").symlink_to("self")
    (archive / "up").symlink_to("..")
    names = [Path(row.path).name for row in scan(archive).rows]
    assert names == ["a.mp4", "b.mp4", "self"]


@pytest.mark.parametrize("shard", [Shard(), Shard(index=1, count=2)])
def test_an_archive_without_a_file_is_taken_for_unmounted_by_every_task(
    archive: Path, shard: Shard
) -> None:
    with pytest.raises(BatchError, match="not one file; is it mounted"):
        scan(archive, shard)


def test_a_task_whose_share_is_empty_has_nothing_to_do(archive: Path) -> None:
    (archive / "only.mp4").touch()
    counts = {len(scan(archive, Shard(index=index, count=2)).rows) for index in range(2)}
    assert counts == {0, 1}


def test_a_folder_that_cannot_be_read_fails_and_what_was_known_of_it_stands(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (archive / folder).mkdir()
        (archive / folder / "x.mp4").touch()
    before = scan(archive)
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = scan(archive)
    assert found.unreadable == [f"{archive}/b"]
    assert found.rows == before.rows[:1]
    assert Inventory.read(archive.parent / "files").there() == before.rows


def test_paths_of_an_archive_that_was_renamed_follow_and_one_that_is_away_stands(
    archive: Path,
) -> None:
    (archive / "x.mp4").write_text("x")
    (archive / "deep").mkdir()
    (archive / "deep" / "y.mp4").write_text("yy")
    away = archive.parent / "away"
    away.mkdir()
    (away / "z.mp4").write_text("zzz")
    known = archive.parent / "files"
    for folder in (archive, away):
        inventory = Inventory.read(known, "run")
        found = scan_archive(folder, inventory, skip=known, shard=Shard())
        inventory.note(*(replace(row, kind="other") for row in found.rows))
    away.rename(archive.parent / "not mounted")
    renamed = archive.rename(archive.parent / "renamed")
    os.utime(renamed)
    found = scan_archive(renamed, Inventory.read(known, "run"), skip=known, shard=Shard())
    assert [row.kind for row in found.rows] == ["other", "other"]
    assert not found.to_probe
    paths = [row.path for row in Inventory.read(known).there()]
    assert paths == [str(away / "z.mp4"), f"{renamed}/deep/y.mp4", f"{renamed}/x.mp4"]
