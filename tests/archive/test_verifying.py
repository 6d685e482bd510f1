"""`batch verify` of a folder of caches: what is damaged is found, removed and made again."""

import datetime
import errno
import shutil
from pathlib import Path

import pytest

from batch.archive.store import Store
from batch.archive.verifying import checks_of, remove_damaged, run_check
from tests.archive.conftest import IndexedArchive
from tests.archive.indexing import run_index
from tests.cachefmt.breaking import rewrite_header
from tests.cli.running import batch, objects, succeed


def caches_of(out: Path) -> list[Path]:
    (caches,) = Store(out).all_caches()
    return [caches.product(video) for video in sorted(caches.finished())]


def damage(path: Path) -> None:
    """Turn a bit in the last byte, which belongs to keys and values."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(bytes(data))


def test_all_caches_of_an_index_are_read(indexed: IndexedArchive) -> None:
    assert succeed("verify", indexed.out) == [f"{path}: whole" for path in caches_of(indexed.out)]


def test_damaged_swapped_and_missing_caches_are_found_and_made_again(
    indexed: IndexedArchive, copied_out: Path
) -> None:
    damaged, missing, swapped = caches_of(copied_out)
    damage(damaged)
    shutil.copy(missing, swapped)
    missing.unlink()
    rows = {
        row["cache"]: row
        for row in objects(batch("verify", copied_out, "--json").stdout.splitlines())
    }
    assert [rows[str(path)]["whole"] for path in (damaged, missing, swapped)] == [False] * 3
    assert "does not match its" in rows[str(damaged)]["problems"][0]
    assert "No such file" in rows[str(missing)]["problems"][0]
    assert "holds video" in rows[str(swapped)]["problems"][0]
    assert damaged.exists()
    result = batch("verify", copied_out, "--repair")
    assert result.exit_code == 1
    assert "2 damaged files removed; the next batch index makes again" in result.stderr
    assert not damaged.exists()
    heard = run_index(indexed.archive, copied_out, indexed.model)
    assert sorted(heard.files) == sorted([damaged, missing, swapped])


def test_caches_of_another_version_or_that_may_not_be_read_are_not_removed(
    copied_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, *_ = caches_of(copied_out)
    rewrite_header(newer, lambda header: header.update(format="3.0"))
    (check,) = (check for check in checks_of(copied_out) if check.path == newer)
    found = run_check(check)
    assert "a newer sali-cache can read it" in str(found.problems[0])
    assert remove_damaged(check, found) == []

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("cachefmt.reader.os.open", refuse)
    found = run_check(check)
    assert "Too many open files" in str(found.problems[0])
    assert remove_damaged(check, found) == []
    assert newer.exists()


def test_the_cache_of_a_video_that_is_gone_is_named_but_not_removed(
    indexed: IndexedArchive, copied_out: Path, archive: Path
) -> None:
    for row in (copied_out / "files").iterdir():
        row.unlink()  # no file of the archive is known any more
    first, *_ = caches_of(copied_out)
    damage(first)
    result = batch("verify", copied_out, "--repair")
    assert result.exit_code == 3
    assert f"error: {first}: " in result.stderr
    assert "0 damaged files removed" in result.stderr
    assert first.exists()


def test_a_scrub_reads_every_cache_once_in_so_many_days(indexed: IndexedArchive) -> None:
    read: list[Path] = []
    for number in range(4):
        day = datetime.date(2030, 1, 1) + datetime.timedelta(days=number)
        read += [check.path for check in checks_of(indexed.out, 0.25, day=day)]
    assert sorted(read) == caches_of(indexed.out)


def test_shares_that_are_none_and_caches_of_nobody_are_wrong_usage(indexed: IndexedArchive) -> None:
    cache = caches_of(indexed.out)[0]
    for words in (
        (indexed.out, "--scrub", "5"),
        (indexed.out, "--scrub", "0%"),
        (cache, "--repair"),
    ):
        result = batch("verify", *words)
        assert (result.exit_code, result.stdout) == (2, "")
