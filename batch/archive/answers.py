"""The answers of an archive: what is recorded of each video, and one table of all.

Answers of one work by one set of settings and versions lie in a folder of their own, a record for
each video; a record of a cache that was made anew since counts for nothing.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.archive.store import ProductFolder, Store
from batch.version import __version__
from jobs.atomic import make_folder, move_into_place, write_errors
from jobs.locks import held
from jobs.records import Ledger, write_object

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")

_VERSIONS = ("tool", "torch", "transformers")

_TEXT, _RANGE = pa.string(), pa.struct([("start_s", pa.float64()), ("stop_s", pa.float64())])
_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(("question", "video", "path", "answer"), _TEXT),
    "tokens": pa.int32(),
    "complete": pa.bool_(),
    "likelihood": pa.float64(),
    "evidence": pa.list_(_RANGE),
    "evidence_samples": pa.list_(pa.int32()),
    "seconds": pa.float64(),
    **dict.fromkeys(("error", "model", "work", *_VERSIONS, "host", "answered"), _TEXT),
}
SCHEMA = pa.schema(_COLUMNS)
"""Columns; README.md beside this file says what they mean."""

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A video and the questions that it is to answer."""

    video: str
    path: str
    cache: str
    """File or folder, within the folder of caches."""
    made: str
    """When its cache was made: another cache under the same name answers anew."""
    questions: tuple[str, ...]


class AnswerRecords:
    """What a work answered so far, by the question, for one set of settings and versions."""

    def __init__(self, store: Store, caches: ProductFolder, settings: Mapping[str, Any]) -> None:
        """settings: all that an answer depends on besides question, cache and versions."""
        others = {name: version(name) for name in _VERSIONS[1:]}
        versions = {_VERSIONS[0]: __version__, **others}
        self._settings = {"work": caches.id, **settings, **versions}
        text = json.dumps(self._settings, sort_keys=True)
        self.id = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._folder = store.answers / self.id
        self._ledger = Ledger(self._folder)
        model = caches.read_settings()["model"]
        self._columns = {"model": model, "work": caches.id, **versions}
        self._recorded: set[str] = set()

    def begin(self, staging: Path) -> None:
        """Write down, once, what the folder's name stands for."""
        if not (self._folder / "settings.json").exists():
            write_object(self._folder / "settings.json", self._settings, staging)
        self._recorded = self._ledger.done()

    def read(self, wanted: Wanted) -> dict[str, dict[str, Any]]:
        """What is recorded of a video, by the question; rows that failed have an "error"."""
        if wanted.video not in self._recorded:
            return {}
        record = self._ledger.read_done(wanted.video)
        if record["made"] != wanted.made:
            return {}
        return {row["question"]: row for row in record["answers"]}

    def add(self, wanted: Wanted, rows: Iterable[Mapping[str, Any]], staging: Path) -> None:
        """Record answers of a video beside those that are there."""
        kept = [{name: row[name] for name in SCHEMA.names if name in row} for row in rows]
        together = self.read(wanted) | {row["question"]: row for row in kept}
        record = {"made": wanted.made, "answers": list(together.values())}
        self._ledger.put_done(wanted.video, record, staging)
        self._recorded.add(wanted.video)

    def refresh(self) -> None:
        """See what others recorded meanwhile."""
        self._recorded = self._ledger.done()

    def missing(self, plan: Iterable[Wanted]) -> int:
        """Questions that nobody has asked yet."""
        return sum(len(set(one.questions) - self.read(one).keys()) for one in plan)

    def rows(self, plan: Iterable[Wanted]) -> Iterator[dict[str, Any]]:
        """A row for each video and question, in their order, by the columns of `SCHEMA`."""
        for one in plan:
            recorded = self.read(one)
            where = {"video": one.video, "path": one.path}
            for question in one.questions:
                found = {**self._columns, **recorded[question], **where}
                yield {name: found.get(name) for name in SCHEMA.names}


def write_table(
    path: Path, rows: Iterator[dict[str, Any]], report: Callable[[str], object]
) -> None:
    """Write all rows as Parquet, CSV or JSON Lines, by the suffix; whole or not at all.

    In CSV, lists are JSON. `report` is told if another process writes the same file, which is
    waited for.
    """
    unfinished = path.with_name(f".{path.name}.tmp")  # one process at a time, so one name
    make_folder(path.parent)
    with held(path.parent, [path.name], report):
        try:
            with write_errors(path):
                _WRITERS[path.suffix](unfinished, rows)
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
            move_into_place(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, SCHEMA))


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SCHEMA.names)
        writer.writeheader()
        for row in rows:
            lists = ("evidence", "evidence_samples")
            writer.writerow(row | {name: json.dumps(row[name]) for name in lists if row[name]})


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n")


_WRITERS = dict(zip(TABLE_SUFFIXES, (_write_parquet, _write_csv, _write_jsonl), strict=True))
