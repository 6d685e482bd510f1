"""How far an archive has come, in numbers. Reads records only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batch.archive.catalogue import PHASES, catalogue_rows
from batch.archive.inventory import Inventory
from batch.archive.store import ProductFolder, Store
from jobs.runs import RunInfo, live_runs

_SIZES = ("cache_bytes", "manifest_bytes", "fp16_kv_bytes")
_SECONDS = tuple(f"{phase}_seconds" for phase in PHASES)
_COLUMNS = ["status", "reason", "run_started", "finished", *_SIZES, *_SECONDS]


@dataclass(frozen=True, kw_only=True)
class CachesStatus:
    """Videos by what became of them, for one model and settings: a "work".

    `failed` is by reason, `seconds` by phase and of all videos that are done. The rate is that of
    the runs at work, or of the last ones; None if they did no video yet.
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
    runs = live_runs(store.root)
    return ArchiveStatus(
        files=len(there),
        videos=len({row.video for row in there if row.kind == "video"}),
        new=kinds["new"],
        other=kinds["other"],
        runs=runs,
        works=[_caches_status(one, catalogue_rows(store, one, _COLUMNS), runs) for one in caches],
    )


def _caches_status(
    caches: ProductFolder, rows: Iterable[dict[str, Any]], runs: Iterable[RunInfo]
) -> CachesStatus:
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    spans: dict[datetime, _Span] = {}
    for run in runs:
        if f"prefill {caches.id}" in run.claims:
            spans[datetime.fromisoformat(run.started)] = _Span(datetime.now(UTC))
    for row in rows:
        counts[row["status"]] += 1
        if row["status"] == "failed":
            failed[str(row["reason"])] += 1
        if row["status"] in ("done", "gone"):
            span = spans.setdefault(row["run_started"], _Span(row["finished"]))
            span.until, span.done = max(span.until, row["finished"]), span.done + 1
            sums.update({name: row[name] for name in (*_SIZES, *_SECONDS)})
    rate = _per_hour(spans)
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


@dataclass
class _Span:
    """Of one run, or of those that began together: until when it worked, and what it did."""

    until: datetime
    done: int = 0


def _per_hour(spans: dict[datetime, _Span]) -> float | None:
    """Videos an hour of the runs that worked last, by when they began; they may work side by side.

    From the beginning of a run on: what it did before its first video was done is work, too.
    """
    if not spans:
        return None
    last = max(spans, key=lambda began: spans[began].until)
    until = spans[last].until
    beside = {began: span for began, span in spans.items() if span.until >= last}
    done = sum(span.done for span in beside.values())
    seconds = (until - min(beside)).total_seconds()
    return done / seconds * 3600 if done and seconds > 0 else None
