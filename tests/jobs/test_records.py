from pathlib import Path

import pytest

from jobs.errors import JobError, NoSpaceError, RecordError
from jobs.records import Ledger

ITEM, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    (tmp_path / "staging").mkdir()
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def staging(ledger: Ledger, tmp_path: Path) -> Path:
    return tmp_path / "staging"


def test_nothing_is_known_before_the_first_record(ledger: Ledger) -> None:
    assert (ledger.done(), ledger.failed()) == (set(), set())


def test_a_record_is_read_as_it_was_put(ledger: Ledger, staging: Path) -> None:
    ledger.put_done(ITEM, {"bytes": 3, "warning": None}, staging)
    assert ledger.read_done(ITEM) == {"bytes": 3, "warning": None}
    assert ledger.done() == {ITEM}
    assert not list(staging.iterdir())


def test_an_item_that_is_done_has_not_failed_any_more(ledger: Ledger, staging: Path) -> None:
    ledger.put_failed(ITEM, {"reason": "empty"}, staging)
    ledger.put_failed(OTHER, {"reason": "empty"}, staging)
    assert ledger.failed() == {ITEM, OTHER}
    ledger.put_done(ITEM, {}, staging)
    assert (ledger.done(), ledger.failed()) == ({ITEM}, {OTHER})


def test_a_kill_between_record_and_clean_up_leaves_it_done(ledger: Ledger, staging: Path) -> None:
    ledger.put_done(ITEM, {}, staging)
    ledger.put_failed(ITEM, {"reason": "empty"}, staging)
    assert (ledger.done(), ledger.failed()) == ({ITEM}, set())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_record_is_named(ledger: Ledger, staging: Path, content: bytes) -> None:
    ledger.put_done(ITEM, {}, staging)
    path = next(ledger.folder.rglob("*.json"))
    path.write_bytes(content)
    with pytest.raises(RecordError, match=f"{ITEM}.json: no record"):
        ledger.read_done(ITEM)


def test_a_failure_that_another_run_mended_meanwhile_is_none(ledger: Ledger, staging: Path) -> None:
    ledger.put_failed(ITEM, {"reason": "empty"}, staging)
    names = ledger.failed()
    ledger.put_done(ITEM, {}, staging)
    assert [ledger.read_failed(item) for item in names] == [None]


def test_a_full_disk_is_told_from_other_errors_and_leaves_no_record(
    ledger: Ledger, staging: Path, tmp_path: Path
) -> None:
    (staging / f"{ITEM}.json").symlink_to("/dev/full")
    with pytest.raises(NoSpaceError, match=rf"{ITEM}\.json: cannot be written: No space left"):
        ledger.put_done(ITEM, {"bytes": 3}, staging)
    assert ledger.done() == set()
    with pytest.raises(JobError, match="cannot be written: No such file") as raised:
        ledger.put_done(ITEM, {}, tmp_path / "a folder that disappeared")
    assert not isinstance(raised.value, NoSpaceError)
