"""What became of each item: one small JSON file, written last and by rename.

Knows items by their digest and records as JSON objects, not what they say.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.atomic import write_atomic
from jobs.errors import RecordError

_DONE, _FAILED = "done", "failed"


def fan_out(folder: Path, item: str, suffix: str) -> Path:
    """Where a file of an item lies: in one of 256 folders, so that none grows too long."""
    return folder / item[:2] / f"{item}{suffix}"


def items_in(folder: Path, *suffixes: str) -> set[str]:
    """Items that have a file under `fan_out`, with any of these suffixes; reads names only."""
    return {
        entry.name.removesuffix(suffix)
        for group in _entries(folder)
        if group.is_dir()
        for entry in _entries(group.path)
        for suffix in suffixes
        if entry.name.endswith(suffix)
    }


def write_object(path: Path, value: Mapping[str, Any], staging: Path) -> None:
    """Write a file of one JSON object, whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    write_atomic(path, f"{text}\n".encode(), staging)


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Read a file of one JSON object; a RecordError says what it is and what removing it does."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"got a {type(found).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: no {what} ({error}); remove it, and {remedy}") from error
    return found


class Ledger:
    """Records of one kind of work in one folder. An item is done, failed, or has no record.

    Several processes may write at once: a record is whole or absent, and which items are done
    is told by names alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self) -> set[str]:
        return items_in(self.folder / _DONE, ".json")

    def failed(self) -> set[str]:
        """Items that failed and were not done since."""
        return items_in(self.folder / _FAILED, ".json") - self.done()

    def put_done(self, item: str, record: Mapping[str, Any], staging: Path) -> None:
        write_object(self._path(_DONE, item), record, staging)
        self._path(_FAILED, item).unlink(missing_ok=True)

    def put_failed(self, item: str, record: Mapping[str, Any], staging: Path) -> None:
        write_object(self._path(_FAILED, item), record, staging)

    def read_done(self, item: str) -> dict[str, Any]:
        return self._read(_DONE, item)

    def read_failed(self, item: str) -> dict[str, Any] | None:
        """The record of an item that failed; None if it was done meanwhile, by whomever."""
        try:
            return self._read(_FAILED, item)
        except RecordError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def files_of(self, item: str) -> list[Path]:
        """Where its records are, or would be."""
        return [self._path(state, item) for state in (_DONE, _FAILED)]

    def _path(self, state: str, item: str) -> Path:
        return fan_out(self.folder / state, item, ".json")

    def _read(self, state: str, item: str) -> dict[str, Any]:
        return read_object(self._path(state, item), "record", "the item is done again")


def _entries(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return
