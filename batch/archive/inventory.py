"""Which file of the archive holds which video, as far as it was looked at.

Kept as JSON lines: `base.jsonl`, and a journal of each run that is folded into it when that run
has ended. A row is believed as long as the file's size, time and inode are those of the row.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from batch.errors import Reason
from batch.video import VideoInfo
from jobs.atomic import write_atomic, write_errors
from jobs.runs import live_runs

_BASE = "base"
_SUFFIX = ".jsonl"
_FACTS = tuple(field.name for field in fields(VideoInfo) if field.name != "path")
Kind = Literal["new", "video", "failed", "other"]


class Stat(NamedTuple):
    """What changes when a file does, without reading it."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRow:
    """One file: not looked at yet ("new"), a video, one that cannot be used, or something other.

    `is_there` is False once the file has vanished: it may come back, or be found elsewhere.
    `facts` are those of VideoInfo but its path, in its order: there are many rows.
    """

    path: str
    stat: Stat
    kind: Kind = "new"
    is_there: bool = True
    facts: tuple[Any, ...] | None = None
    reason: Reason | None = None
    message: str | None = None

    @property
    def video(self) -> str:
        """The digest of a video's content."""
        return str(self._facts[_FACTS.index("sha256")])

    @property
    def public_facts(self) -> dict[str, Any]:
        """Facts of a video as records and the catalogue have them."""
        info = self.info
        return {
            "video_bytes": info.size_bytes,
            "codec": info.codec,
            "width_px": info.width_px,
            "height_px": info.height_px,
            "duration_s": info.span_s,
        }

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(path=Path(self.path), **dict(zip(_FACTS, self._facts, strict=True)))

    @property
    def _facts(self) -> tuple[Any, ...]:
        if self.facts is None:
            raise ValueError(f"{self.path}: not a video")
        return self.facts

    def to_json(self) -> str:
        values = {name: getattr(self, name) for name in self.__slots__}
        if self.facts is not None:
            values["facts"] = dict(zip(_FACTS, self.facts, strict=True))
        return json.dumps({name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read one back; KeyError, TypeError, ValueError: no row, or one of another version."""
        values = json.loads(text)
        values["stat"] = Stat(*values["stat"])
        if "facts" in values:
            facts = values["facts"]
            values["facts"] = tuple(facts.pop(name) for name in _FACTS)
            if facts:
                raise ValueError(f"got facts {sorted(facts)} beside {sorted(_FACTS)}")
        if "reason" in values:
            values["reason"] = Reason(values["reason"])
        return cls(**values)


def facts_of(info: VideoInfo) -> tuple[Any, ...]:
    """The facts of a video as rows have them."""
    return tuple(getattr(info, name) for name in _FACTS)


class Inventory:
    """All rows by path, and the journal of this run."""

    def __init__(self, rows: dict[str, FileRow], journal: Path | None) -> None:
        self.rows = rows
        self._journal = journal

    @classmethod
    def read(cls, folder: Path, run: str | None = None) -> Self:
        """Read what all runs have found so far; `run` names the journal of one that finds more."""
        while True:
            try:
                rows = {row.path: row for part in _parts(folder) for row in _read(part)}
                break
            except FileNotFoundError:  # folded by another run meanwhile
                continue
        return cls(rows, None if run is None else folder / f"{run}{_SUFFIX}")

    def there(self) -> list[FileRow]:
        """Rows of files that have not vanished, in order of path."""
        return [row for _, row in sorted(self.rows.items()) if row.is_there]

    def note(self, *rows: FileRow) -> None:
        """Remember rows, also if this process is killed the next moment."""
        if self._journal is None:
            raise ValueError("the inventory was opened to be read")
        self.rows.update((row.path, row) for row in rows)
        if rows:
            with write_errors(self._journal):
                self._journal.parent.mkdir(exist_ok=True)
                with self._journal.open("a", encoding="utf-8") as file:
                    file.writelines(f"{row.to_json()}\n" for row in rows)


def fold(root: Path, folder: Path, run: str, staging: Path) -> None:
    """Make one file of all journals but those of other live runs; needs the root's lock."""
    others = {other.id for other in live_runs(root)} - {run}
    parts = [part for part in _parts(folder) if part.stem not in others]
    base = folder / f"{_BASE}{_SUFFIX}"
    if set(parts) <= {base}:
        return
    rows = {row.path: row for part in parts for row in _read(part)}
    lines = "".join(f"{rows[path].to_json()}\n" for path in sorted(rows))
    write_atomic(base, lines.encode(), staging)
    for part in parts:
        if part != base:
            part.unlink()


def _parts(folder: Path) -> list[Path]:
    """The base, then the journals by the time of their run, with which their names begin."""
    return sorted(folder.glob(f"*{_SUFFIX}"), key=lambda part: (part.stem != _BASE, part.name))


def _read(part: Path) -> Iterator[FileRow]:
    with part.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield FileRow.from_json(line)
            except (ValueError, TypeError, KeyError):  # cut off by a kill; it is looked at again
                continue
