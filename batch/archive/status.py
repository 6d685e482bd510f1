"""How far an archive has come, in numbers. Reads records only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batch.archive.catalogue import PHASES, catalogue_rows
from batch.archive.inventory import Inventory
from batch.archive.store import ProductFolder, Store
from jobs.runs import RunInfo, live_runs

RATE_OVER_S = 3600.0
"""The rate is that of the last hour in which something was finished."""

_SIZES = ("cache_bytes", "manifest_bytes", "fp16_kv_bytes")
_SECONDS = tuple(f"{phase}_seconds" for phase in PHASES)
_COLUMNS = ["status", "reason", "finished", *_SIZES, *_SECONDS]


@dataclass(frozen=True, kw_only=True)
class CachesStatus:
    """Videos by what became of them, for one model and settings: a "work".

    `failed` is by reason, `seconds` by phase and of all videos that are done. The rate is over the
    last hour of work, None if fewer than two were done.
    """

    work: str
    model: str
    done: int
    gone: int
    analyzed: int
    pending: int
    failed: dict[str, int]
    cache_bytes: int
    manifest_bytes: int
    fp16_kv_bytes: int
    seconds: dict[str, float]
    videos_per_hour: float | None
    to_go_s: float | None


@dataclass(frozen=True, kw_only=True)
class ArchiveStatus:
    """The folder of caches: what is known of the archive, who is at work, what is done.

    `files` were in the archive when it was last walked; `videos` are contents, however many
    copies; `new` files nobody looked at yet; `other` files are no videos and not called so.
    """

    files: int
    videos: int
    new: int
    other: int
    runs: list[RunInfo]
    works: list[CachesStatus]


def read_status(store: Store) -> ArchiveStatus:
    """Read the state of all that was asked for."""
    there, caches = Inventory.read(store.files).there(), store.all_caches()
    kinds = Counter(row.kind for row in there)
    return ArchiveStatus(
        files=len(there),
        videos=len({row.video for row in there if row.kind == "video"}),
        new=kinds["new"],
        other=kinds["other"],
        runs=live_runs(store.root),
        works=[_caches_status(one, catalogue_rows(store, one, _COLUMNS)) for one in caches],
    )


def _caches_status(caches: ProductFolder, rows: Iterable[dict[str, Any]]) -> CachesStatus:
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
            sums.update({name: row[name] for name in (*_SIZES, *_SECONDS)})
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
        **{name: sums[name] for name in _SIZES},
        seconds={phase: float(sums[name]) for phase, name in zip(PHASES, _SECONDS, strict=True)},
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
