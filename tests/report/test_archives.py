"""The page of all videos of a folder of caches."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batch.report import archives
from batch.report.archives import Work, archive_page, nights

NIGHT = datetime(2026, 3, 1, 22, tzinfo=UTC)


def row(name: str, **values: Any) -> dict[str, Any]:
    done = {
        "cache": f"caches/{name}",
        "status": "done",
        "cache_bytes": 1_000,
        "fp16_kv_bytes": 50_000,
        "compression": 50.0,
        "duration_s": 60.0,
        "run_started": NIGHT,
        "finished": NIGHT + timedelta(hours=5),
    }
    return {"path": f"/films/{name}", **done, **values}


def failure(name: str, reason: str) -> dict[str, Any]:
    return {"path": f"/films/{name}", "status": "failed", "reason": reason, "message": "it <b>is"}


def test_videos_are_counted_by_what_became_of_them_and_linked_where_there_is_a_page() -> None:
    rows = [row("2024/a.mp4"), row("b.mp4"), failure("c.mp4", "empty"), failure("d.mp4", "empty")]
    pages = {"caches/b.mp4": "videos/b.html"}
    page = archive_page([Work(rows=rows)], pages, title="films", subtitle="")
    assert "<dd>2<small>of 4</small></dd>" in page
    assert "empty 2" in page
    assert re.findall(r'<a href="([^"]+)">([^<]+)</a>', page) == [("videos/b.html", "b.mp4")]
    assert ">2024/a.mp4<" in page
    assert "it &lt;b&gt;is" in page
    assert "<dd>50.0×<small>than 100 kB of FP16 K and V</small></dd>" in page


def test_nights_are_counted_by_the_day_on_which_their_run_began() -> None:
    later = NIGHT + timedelta(days=1)
    rows = [row("a"), row("b"), row("c", run_started=later)]
    rows.append({**failure("d", "empty"), "run_started": later})
    assert [(night["day"], night["done"], night["height"]) for night in nights(rows)] == [
        ("03-01", "2", 78.0),
        ("03-02", "1", 39.0),
    ]
    assert nights(rows)[1]["failed_height"] == 39.0
    assert nights([failure("e", "empty")]) == []


def test_of_very_many_rows_failures_and_the_last_ones_are_shown_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "MOST_ROWS", 2)
    old = row("old", finished=NIGHT - timedelta(days=9))
    rows = [old, row("new"), failure("bad", "empty")]
    page = archive_page([Work(rows=rows)], {}, title="t", subtitle="")
    assert re.findall(r'class="name" data-v="(\w+)"', page) == ["bad", "new"]
    assert "2 of 3 rows" in page
    assert "<dd>2<small>of 3</small></dd>" in page
