"""The page of all videos of a folder of caches: what is done, what failed, what each night did."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batch.report.drawing import clock
from batch.report.rendering import in_bytes, render

MOST_ROWS = 5_000
"""Of a table; the catalogue has all."""
_MOST_NIGHTS = 40
_HIGHEST = 78
"""Percent of the chart of nights that its highest bar takes."""

Row = Mapping[str, Any]
"""Of the catalogue, by the names of its columns; what is not known may be missing."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one model made of videos; its videos an hour and the time to go, in words."""

    rows: Sequence[Row]
    model: str = ""
    rate: str = ""


def archive_page(
    works: Sequence[Work],
    pages: Mapping[str, str],
    *,
    title: str,
    subtitle: str,
    running: Sequence[str] = (),
) -> str:
    """Videos in a table to sort; what is done, failed and held, in all and night by night.

    Args:
        pages: address of the page of some, by what their rows call `cache`.
        running: a line for each run at work.
    """
    columns = [("video", ""), ("state", ""), *((name, kind) for name, kind, _, _ in _COLUMNS)]
    return render(
        "archive.html",
        title=title,
        subtitle=subtitle,
        running=running,
        digest="",
        columns=columns,
        works=[_work(work, pages) for work in works],
    )


def nights(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What each day's runs did, by the day on which they began (UTC); the last 40 of them."""
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for row in rows:
        if row.get("run_started") is None:
            continue
        day = f"{row['run_started']:%Y-%m-%d}"
        if row["status"] == "failed":
            failed[day] += 1
        elif row["status"] in ("done", "gone"):
            done[day] += 1
            held[day] += row["cache_bytes"]
    days = sorted({*done, *failed})[-_MOST_NIGHTS:]
    most = max((done[day] + failed[day] for day in days), default=1)
    return [
        {
            "day": day[5:],
            "done": f"{done[day]:,}",
            "height": round(_HIGHEST * done[day] / most, 1),
            "failed_height": round(_HIGHEST * failed[day] / most, 1),
            "said": f"{day}: {done[day]:,} done, {failed[day]:,} failed, {in_bytes(held[day])}",
        }
        for day in days
    ]


def _seconds(row: Row) -> float | None:
    found = [row.get(f"{phase}_seconds") for phase in ("analyze", "encode", "prefill")]
    spent = [one for one in found if one is not None]
    return sum(spent) if spent else None


def _of(column: str) -> Callable[[Row], Any]:
    return lambda row: row.get(column)


_COLUMNS: tuple[tuple[str, str, Callable[[Row], Any], Callable[[Any], str]], ...] = (
    ("length", "num", _of("duration_s"), lambda value: clock(round(value))),
    ("samples", "num wide", _of("samples"), "{:,}".format),
    ("stored", "num wide", _of("stored_samples"), "{:,}".format),
    ("cache", "num", _of("cache_bytes"), in_bytes),
    ("smaller", "num", _of("compression"), "{:,.1f}×".format),
    ("same tokens", "num wide", _of("agreement"), "{:.1%}".format),
    ("seconds", "num wide", _seconds, "{:,.1f}".format),
    ("finished", "wide", _of("finished"), "{:%Y-%m-%d %H:%M}".format),
)
"""Heading, class, what of a row stands below it, and how it is written."""


def _work(work: Work, pages: Mapping[str, str]) -> dict[str, Any]:
    states = Counter(row["status"] for row in work.rows)
    rows, folder = work.rows, _folder(work.rows)
    said = f"{len(rows):,} rows"
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=_by_interest)[:MOST_ROWS]
        said = f"{MOST_ROWS:,} of {len(work.rows):,} rows: failures and what was done last"
    return {
        "model": work.model,
        "tiles": _tiles(work, states),
        "nights": nights(work.rows),
        "failed": Counter(str(row.get("reason")) for row in work.rows if row["status"] == "failed"),
        "shown": said,
        "rows": [_table_row(row, folder, pages) for row in rows],
    }


def _by_interest(row: Row) -> tuple[bool, float]:
    finished = row.get("finished")
    return row["status"] != "failed", 0.0 if finished is None else -finished.timestamp()


def _folder(rows: Sequence[Row]) -> str:
    """What the paths of all videos begin with."""
    folders = {os.path.dirname(row["path"]) for row in rows}
    is_one = bool(folders) and len({os.path.isabs(folder) for folder in folders}) == 1
    return os.path.commonpath(folders) if is_one else ""


def _tiles(work: Work, states: Mapping[str, int]) -> list[tuple[str, str, str]]:
    done = [row for row in work.rows if row["status"] in ("done", "gone")]
    held = sum(row["cache_bytes"] for row in done)
    full = sum(row["fp16_kv_bytes"] for row in done)
    hours = sum(row.get("duration_s") or 0 for row in done) / 3600
    waiting = states["pending"] + states["analyzed"]
    found = [
        ("done", f"{len(done):,}", f"of {len(work.rows):,}"),
        ("failed", f"{states['failed']:,}", "reasons below" if states["failed"] else ""),
        ("video", f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min", ""),
        ("caches", in_bytes(held), f"{in_bytes(held / hours)} an hour" if hours else ""),
    ]
    if held:
        found.append(("smaller", f"{full / held:,.1f}×", f"than {in_bytes(full)} of FP16 K and V"))
    if waiting:
        found.insert(1, ("waiting", f"{waiting:,}", work.rate))
    return found


def _table_row(row: Row, folder: str, pages: Mapping[str, str]) -> dict[str, Any]:
    values = [(value_of(row), text_of, kind) for _, kind, value_of, text_of in _COLUMNS]
    return {
        "name": os.path.relpath(row["path"], folder) if folder else row["path"],
        "page": pages.get(row.get("cache") or ""),
        "status": row["status"],
        "reason": row.get("reason"),
        "message": row.get("message"),
        "warning": row.get("warning"),
        "cells": [
            ("" if value is None else text_of(value), _sorted_by(value), kind)
            for value, text_of, kind in values
        ],
    }


def _sorted_by(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return "" if value is None else value
