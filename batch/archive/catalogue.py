"""The catalogue: a Parquet file per work with a row per video, made from records. Knows Arrow."""

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.archive.inventory import FileRow, Inventory
from batch.archive.store import Shelf, Store
from cachefmt.tiers import STORED_TIERS
from jobs.whole import write_whole

SCHEMA = pa.schema(
    [
        pa.field("video", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("paths", pa.list_(pa.string()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("warning", pa.string()),
        pa.field("video_bytes", pa.int64()),
        pa.field("codec", pa.string()),
        pa.field("width_px", pa.int32()),
        pa.field("height_px", pa.int32()),
        pa.field("duration_s", pa.float64()),
        pa.field("samples", pa.int32()),
        pa.field("stored_samples", pa.int32()),
        pa.field("slots", pa.int64()),
        *(pa.field(f"tokens_{tier.name.lower()}", pa.int64()) for tier in STORED_TIERS),
        pa.field("block_samples", pa.int32()),
        pa.field("manifest_bytes", pa.int64()),
        pa.field("cache", pa.string()),
        pa.field("cache_bytes", pa.int64()),
        pa.field("fp16_kv_bytes", pa.int64()),
        pa.field("compression", pa.float64()),
        pa.field("analyze_seconds", pa.float64()),
        pa.field("encode_seconds", pa.float64()),
        pa.field("prefill_seconds", pa.float64()),
        pa.field("host", pa.string()),
        pa.field("finished", pa.string()),
        pa.field("tool", pa.string()),
        pa.field("torch", pa.string()),
        pa.field("transformers", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("work", pa.string(), nullable=False),
    ]
)
"""Columns; README says what they mean."""

_ROWS_AT_ONCE = 10_000


def catalogue_rows(store: Store, caches: Shelf) -> Iterator[dict[str, Any]]:
    """A row for each video of a work, and for each file that was to be one; read from records.

    Status is "done", "failed", "analyzed" (a manifest, no cache yet), "pending" (neither), or
    "gone": done, but no file of the archive holds it any more.

    Raises:
        RecordError: a record is damaged.
    """
    asked = caches.asked()
    manifests = store.analysis(asked["analysis"])
    states = _States(manifests, caches)
    always = {"model": asked["model"], "work": caches.id}
    for files in _files_by_video(Inventory.read(store.files)):
        found = states.of_files(files)
        if found is not None:
            yield {**always, **found, "cache": _cache(store, caches, found)}


def write_catalogue(store: Store, caches: Shelf, staging: Path) -> Path:
    """Make the catalogue of a work anew, whole or not at all; returns its path."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for row in catalogue_rows(store, caches):
            rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    target = store.catalogue / f"{caches.id}.parquet"
    if not target.exists() or target.read_bytes() != sink.getvalue():
        write_whole(target, sink.getvalue(), staging)
    return target


class _States:
    """What the records of an analysis and of a work say of each video."""

    def __init__(self, manifests: Shelf, caches: Shelf) -> None:
        self._manifests = manifests
        self._caches = caches
        self._done = caches.finished()
        self._analyzed = manifests.finished()
        self._failed = {
            video: shelf for shelf in (manifests, caches) for video in shelf.ledger.failed()
        }

    def of_files(self, files: list[FileRow]) -> dict[str, Any] | None:
        """The row of the files that hold one video; None if there is nothing to say of it."""
        there = [file for file in files if file.is_there]
        first = (there or files)[0]
        row = {
            "path": _text(first.path),
            "paths": [_text(file.path) for file in there],
            "video_bytes": first.stat.size_bytes,
        }
        if first.facts is None:
            reasons = {"status": "failed", "reason": first.reason, "message": first.message}
            return {**row, **reasons} if there else None
        facts = first.facts
        row |= {name: facts[name] for name in ("codec", "width_px", "height_px", "duration_s")}
        state = self._of_video(first.video, is_there=bool(there))
        return None if state is None else {**state, **row, "video": first.video}

    def _of_video(self, video: str, *, is_there: bool) -> dict[str, Any] | None:
        if video in self._done:
            record = self._caches.ledger.read_done(video)
            compression = record["fp16_kv_bytes"] / record["cache_bytes"]
            return {
                **record,
                "status": "done" if is_there else "gone",
                "compression": compression,
            }
        if not is_there:
            return None
        if video in self._failed:
            return {**self._failed[video].ledger.read_failed(video), "status": "failed"}
        if video in self._analyzed:
            return {**self._manifests.ledger.read_done(video), "status": "analyzed"}
        return {"status": "pending"}


def _files_by_video(inventory: Inventory) -> Iterator[list[FileRow]]:
    """Files in order of path, those of the same content together; failed ones alone."""
    together: dict[str, list[FileRow]] = defaultdict(list)
    for path in sorted(inventory.rows):
        row = inventory.rows[path]
        if row.kind == "video":
            together[row.video].append(row)
        elif row.kind == "failed":
            together[path].append(row)
    yield from together.values()


def _cache(store: Store, caches: Shelf, row: dict[str, Any]) -> str | None:
    """Path of a cache within the folder of caches, which may be moved as a whole."""
    if row["status"] not in ("done", "gone"):
        return None
    return str(caches.product(row["video"]).relative_to(store.root))


def _text(path: str) -> str:
    """A path that need not be UTF-8, for people and Arrow."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
