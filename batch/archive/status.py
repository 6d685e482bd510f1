"""How far an archive has come, in numbers. Reads records only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from batch.archive.catalogue import catalogue_rows
from batch.archive.inventory import Inventory
from batch.archive.store import ProductFolder, Store
from batch.errors import BatchError
from jobs.runs import RunInfo, had_runs, live_runs

RATE_OVER_S = 3600.0
"""The rate is that of the last hour in which something was finished."""

_PHASES = ("analyze", "encode", "prefill")
_SUMMED = (
    *("cache_bytes", "manifest_bytes", "fp16_kv_bytes"),
    *(f"{phase}_seconds" for phase in _PHASES),
)
_COLUMNS = ["status", "reason", "finished", *_SUMMED]


@dataclass(frozen=True, kw_only=True)
class CachesStatus:
    """Videos by what became of them, for one model and settings: a "work"."""

    work: str
    model: str
    done: int
    gone: int
    analyzed: int
    pending: int
    failed: dict[str, int]
    """By reason."""
    cache_bytes: int
    manifest_bytes: int
    fp16_kv_bytes: int
    seconds: dict[str, float]
    """Of all videos that are done, by phase."""
    videos_per_hour: float | None
    """Over the last hour of work; None: fewer than two were done."""
    to_go_s: float | None


@dataclass(frozen=True, kw_only=True)
class ArchiveStatus:
    """The folder of caches: what is known of the archive, who is at work, what is done."""

    files: int
    """In the archive when it was last walked."""
    videos: int
    """Contents, however many copies."""
    new: int
    """Files that nobody looked at yet."""
    other: int
    """Files that are no videos and are not called so."""
    runs: list[RunInfo]
    works: list[CachesStatus]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_status(store: Store) -> ArchiveStatus:
    """Read the state of all that was asked for.

    Raises:
        BatchError: no run ever wrote here.
        RecordError: a record is damaged.
    """
    there, caches = Inventory.read(store.files).there(), store.all_caches()
    if not (there or caches or had_runs(store.root)):
        raise BatchError(
            f"{store.root}: no folder of batch index, which holds runs, files and works;  "
            f"batch index ARCHIVE --out {store.root} makes it one. "
            "(What batch prefill wrote is shown by batch inspect.)"
        )
    kinds = Counter(row.kind for row in there)
    return ArchiveStatus(
        files=len(there),
        videos=len({row.video for row in there if row.kind == "video"}),
        new=kinds["new"],
        other=kinds["other"],
        runs=live_runs(store.root),
        works=[caches_status(one, catalogue_rows(store, one, _COLUMNS)) for one in caches],
    )


def caches_status(caches: ProductFolder, rows: Iterable[dict[str, Any]]) -> CachesStatus:
    """Count the rows of a catalogue."""
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    finished: list[float] = []
    for row in rows:
        counts[row["status"]] += 1
        if row["status"] == "failed":
            failed[str(row["reason"])] += 1
        if row["status"] in ("done", "gone"):
            finished.append(datetime.fromisoformat(row["finished"]).timestamp())
            for name in _SUMMED:
                sums[name] += row[name]
    rate = _per_hour(finished)
    left = counts["pending"] + counts["analyzed"]
    return CachesStatus(
        work=caches.id,
        model=caches.read_settings()["model"],
        done=counts["done"],
        gone=counts["gone"],
        analyzed=counts["analyzed"],
        pending=counts["pending"],
        failed=dict(sorted(failed.items())),
        cache_bytes=sums["cache_bytes"],
        manifest_bytes=sums["manifest_bytes"],
        fp16_kv_bytes=sums["fp16_kv_bytes"],
        seconds={phase: float(sums[f"{phase}_seconds"]) for phase in _PHASES},
        videos_per_hour=rate,
        to_go_s=left / rate * 3600 if rate else None,
    )


def _per_hour(finished: list[float]) -> float | None:
    if not finished:
        return None
    last = max(finished)
    lately = [when for when in finished if when > last - RATE_OVER_S]
    span_s = last - min(lately)
    return (len(lately) - 1) / span_s * 3600 if span_s > 0 else None
