"""The catalogue: a Parquet file with a row per video, made from records. Knows Arrow.

There is one for each model and settings, which in its columns are called a work.
"""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.archive.inventory import FileRow, Inventory, Stat
from batch.archive.store import ProductFolder, Store
from cachefmt.tiers import STORED_TIERS
from jobs.atomic import write_atomic

PHASES = ("analyze", "encode", "prefill")


def _fields(kind: pa.DataType, *names: str, nullable: bool = True) -> list["pa.Field[Any]"]:
    return [pa.field(name, kind, nullable=nullable) for name in names]


SCHEMA = pa.schema(
    [
        *_fields(pa.string(), "video"),
        *_fields(pa.string(), "path", nullable=False),
        *_fields(pa.list_(pa.string()), "paths", nullable=False),
        *_fields(pa.string(), "status", nullable=False),
        *_fields(pa.string(), "reason", "message", "warning"),
        *_fields(pa.int64(), "video_bytes"),
        *_fields(pa.string(), "codec"),
        *_fields(pa.int32(), "width_px", "height_px"),
        *_fields(pa.float64(), "duration_s"),
        *_fields(pa.int32(), "samples", "stored_samples"),
        *_fields(
            pa.int64(),
            "slots",
            "computed",
            *(f"tokens_{tier.name.lower()}" for tier in STORED_TIERS),
        ),
        *_fields(pa.int32(), "block_samples"),
        *_fields(pa.int64(), "manifest_bytes"),
        *_fields(pa.string(), "manifest", "cache"),
        *_fields(pa.int32(), "segments"),
        *_fields(pa.int64(), "cache_bytes", "fp16_kv_bytes"),
        *_fields(pa.float64(), "kl", "agreement"),
        *_fields(pa.float64(), "compression", *(f"{phase}_seconds" for phase in PHASES)),
        *_fields(pa.timestamp("ms", "UTC"), "run_started", "finished"),
        *_fields(pa.string(), "host", "tool", "torch", "transformers"),
        *_fields(pa.string(), "model", "work", nullable=False),
    ]
)
"""Columns; README.md beside this file says what they mean."""

_ROWS_AT_ONCE = 10_000
_STATE_KEY = b"sali-cache.state"


def catalogue_rows(
    store: Store, caches: ProductFolder, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each video, and for each file that was to be one, with at least these columns.

    Status is "done", "failed", "analyzed" (a manifest, no cache yet), "pending" (neither), or
    "gone": done, but no file of the archive holds it any more. Read from the catalogue if nothing
    happened since it was written, else from the records.
    """
    path = store.catalogue(caches.id)
    if not _is_fresh(path, _state(store, caches)):
        yield from _rows_of_records(store, caches)
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            yield from batch.to_pylist()


def write_catalogue(store: Store, caches: ProductFolder, staging: Path) -> None:
    """Bring the catalogue up to date, whole or not at all."""
    path, state = store.catalogue(caches.id), _state(store, caches)
    if _is_fresh(path, state):
        return
    sink, rows = io.BytesIO(), _rows_of_records(store, caches)
    schema = SCHEMA.with_metadata({_STATE_KEY: state})
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, SCHEMA))
    write_atomic(path, sink.getvalue(), staging)


def _state(store: Store, caches: ProductFolder) -> bytes:
    """Digest that changes whenever a record, a product or the inventory does; opens none."""
    manifests = store.manifests(caches.read_settings()["analysis"])
    files = []
    for path in sorted(store.files.glob("*")):
        with suppress(FileNotFoundError):  # folded by a run that ends
            files.append([path.name, *Stat.of(path.stat())])
    state = json.dumps([files, manifests.state(), caches.state()])
    return hashlib.sha256(state.encode()).hexdigest().encode()


def _is_fresh(path: Path, state: bytes) -> bool:
    try:
        return (pq.read_schema(path).metadata or {}).get(_STATE_KEY) == state
    except (FileNotFoundError, pa.ArrowInvalid):  # the latter: damaged, so it is made again
        return False


def _rows_of_records(store: Store, caches: ProductFolder) -> Iterator[dict[str, Any]]:
    """Of each video and each file that failed, in order of path; then of what is gone."""
    settings = caches.read_settings()
    manifests = store.manifests(settings["analysis"])
    analyzed = manifests.finished()
    for row in _States(manifests, caches).rows(Inventory.read(store.files).there()):
        for time in row.keys() & {"run_started", "finished"}:
            row[time] = datetime.fromisoformat(row[time])
        files = dict.fromkeys(("manifest", "cache"))
        if row.get("video") in analyzed:
            files["manifest"] = str(manifests.product(row["video"]).relative_to(store.root))
        if row["status"] in ("done", "gone"):
            files["cache"] = str(caches.product(row["video"]).relative_to(store.root))
        yield {**row, **files, "model": settings["model"], "work": caches.id}


class _States:
    """What the records of manifests and caches say of each video."""

    def __init__(self, manifests: ProductFolder, caches: ProductFolder) -> None:
        self._caches, self._manifests = caches.ledger, manifests.ledger
        self._done, self._analyzed = caches.finished(), manifests.finished()
        ledgers = (self._manifests, self._caches)
        self._failed = {video: ledger for ledger in ledgers for video in ledger.failed()}

    def rows(self, files: list[FileRow]) -> Iterator[dict[str, Any]]:
        together: dict[str, list[str]] = defaultdict(list)
        for file in files:
            if file.kind == "video":
                together[file.video].append(shown_name(file.path))
        gone = self._done - together.keys()
        for file in files:
            if file.kind == "video" and (paths := together.pop(file.video, None)):
                yield {"video": file.video, **self._state(file), "path": paths[0], "paths": paths}
            elif file.kind == "failed":
                path = shown_name(file.path)
                failure = {"reason": file.reason, "message": file.message}
                size = {"video_bytes": file.stat.size_bytes}
                yield {"path": path, "paths": [path], "status": "failed", **failure, **size}
        for video in sorted(gone):
            record = self._done_record(video)
            yield {"video": video, **record, "status": "gone", "path": shown_name(record["path"])}

    def _state(self, file: FileRow) -> dict[str, Any]:
        video = file.video
        if video in self._done:
            return {**self._done_record(video), "status": "done"}
        if video in self._failed and (record := self._failed[video].read_failed(video)):
            return {**record, **file.public_facts, "status": "failed"}
        if video in self._analyzed:
            return {**self._manifests.read_done(video), "status": "analyzed"}
        return {**file.public_facts, "status": "pending"}

    def _done_record(self, video: str) -> dict[str, Any]:
        record = self._caches.read_done(video)
        compression = record["fp16_kv_bytes"] / record["cache_bytes"]
        return {**record, "compression": compression, "paths": []}


def shown_name(path: str) -> str:
    """A path or name of a file, which need not be UTF-8, for people and Arrow."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
