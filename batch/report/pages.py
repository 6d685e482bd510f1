"""Pages of HTML: a video, answers and what they rest on, an archive. Data in, a string out.

    video = VideoReport.read(Path("caches/holiday.safetensors"))     # a cache, or a manifest
    html = video_page(video)                                         # all that is known of it
    found = AnsweredVideo(video=video, answers=[ShownAnswer.of(answer.to_dict())])
    html = answers_page([found], title="Who is at the door?")        # and what answers rest on

A page is one file: it loads nothing from anywhere and runs only its own script, whatever names of
files, questions and answers hold. `up` is the address of the page of all videos; `ask` is one that
a question is sent to (POST, form field `question`), of a server that answers with a page. No torch
is needed. Pages of folders are written by `batch report`.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from batch.analysis.tiers import profile_name
from batch.report.drawing import Rest, clock, draw
from batch.report.pictures import MOST_PICTURES
from batch.report.videos import VideoReport
from batch.version import __version__

_FEWEST_PICTURES = 12
"""Of a video, however many are on a page."""
MOST_ROWS = 5_000
"""Of a table; the catalogue has all."""
_MOST_NIGHTS = 40


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """An answer as a page shows it.

    - evidence: times that it rests on, s, half-open.
    - likelihood: natural logarithm of the probability of a token, a mean; None: not measured.
    - weights: share of the evidence of a sample; cells: of a sample's cells [rows, columns].
    - truth: if it is known; remark: on an answer that is not the truth.
    - notes: more lines, as what was read for it.
    """

    question: str
    text: str
    evidence: Sequence[tuple[float, float]] = ()
    likelihood: float | None = None
    complete: bool = True
    weights: Mapping[int, float] = field(default_factory=dict)
    cells: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    truth: str | None = None
    remark: str = ""
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """From what `Answer.to_dict` gives and `batch answer --json` prints."""
        return cls(
            question=found["question"],
            text=found["answer"],
            evidence=[(part["start_s"], part["stop_s"]) for part in found["evidence"]],
            likelihood=found.get("likelihood"),
            complete=found["complete"],
        )


@dataclass(frozen=True, kw_only=True)
class AnsweredVideo:
    """A video with answers about it; `page` is the address of its own page."""

    video: VideoReport
    answers: Sequence[ShownAnswer]
    page: str | None = None


class Cell(NamedTuple):
    """Of a table: what is read, and what it is sorted by."""

    text: str
    value: float | str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one model made of videos.

    - rows: with the columns of the catalogue; pages: address of the page of some, by `video`.
    - total: rows that there are, if these are not all.
    - rate: videos an hour and the time to go, in words.
    """

    name: str
    model: str
    rows: Sequence[Mapping[str, Any]]
    pages: Mapping[str, str]
    total: int | None = None
    rate: str = ""


def video_page(
    video: VideoReport,
    *,
    up: str | None = None,
    ask: str | None = None,
    downloads: Mapping[str, str] | None = None,
    digest: str = "",
) -> str:
    """All that is known of a video: samples on a time line, signals, bytes, facts.

    Args:
        downloads: addresses of its scenes, by format.
        digest: is written into the page, so that whoever wrote it knows it again.

    Raises:
        ManifestError: a picture is damaged.
    """
    manifest = video.manifest
    return _render(
        "video.html",
        title=shown_name(manifest.video.name),
        subtitle=_subtitle(video),
        up=up,
        ask=ask,
        digest=digest,
        tiles=_tiles(video),
        tiers=[(name, name.lower()) for name in ("FP16", "INT8", "INT4", "PRUNE")],
        video=draw(video),
        facts=_facts(video),
        downloads=downloads or {},
    )


def answers_page(
    answered: Sequence[AnsweredVideo],
    *,
    title: str,
    introduction: str = "",
    up: str | None = None,
    ask: str | None = None,
) -> str:
    """Answers side by side, and the samples that each rests on framed among all of its video.

    Raises:
        ManifestError: a picture is damaged.
    """
    most = max(_FEWEST_PICTURES, MOST_PICTURES // max(len(answered), 1))
    videos = [
        {
            "name": shown_name(one.video.manifest.video.name),
            "page": one.page,
            "subtitle": _subtitle(one.video),
            "answers": [_answer(answer) for answer in one.answers],
            "has_cells": any(answer.cells for answer in one.answers),
            "video": draw(
                one.video,
                [
                    Rest(evidence=answer.evidence, weights=answer.weights, cells=answer.cells)
                    for answer in one.answers
                ],
                name=f"v{number}",
                most=most,
                with_tiers=False,
            ),
        }
        for number, one in enumerate(answered)
    ]
    return _render(
        "answers.html",
        title=title,
        introduction=introduction,
        up=up,
        ask=ask,
        digest="",
        videos=videos,
    )


def archive_page(
    works: Sequence[Work], *, title: str, subtitle: str, running: Sequence[str]
) -> str:
    """All videos of a folder of caches in a table to sort, what failed, and what each night did."""
    columns = [("video", ""), ("state", ""), *((name, kind) for name, kind, _ in _COLUMNS)]
    return _render(
        "archive.html",
        title=title,
        subtitle=subtitle,
        running=running,
        digest="",
        columns=columns,
        works=[_work(work) for work in works],
    )


def shown_name(name: str) -> str:
    """The name of a file, which need not be UTF-8, for people."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def in_bytes(count: float) -> str:
    """A size as a person says it, in units of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit == "bytes" or count >= 99.95
                else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:,.1f} TB"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("batch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _file(name: str) -> Markup:
    """A file of ours that goes into pages as it is."""
    text = (resources.files("batch.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)


def _render(template: str, **values: Any) -> str:
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    text = page.render(
        version=__version__,
        style=_file("style.css"),
        script=script,
        script_digest=f"sha256-{digest}",
        **values,
    )
    return text.encode(errors="replace").decode()


def _subtitle(video: VideoReport) -> str:
    info, length_s = video.manifest.video, video.edges_s[-1] - video.edges_s[0]
    kept = int(video.manifest.kept.sum())
    return (
        f"{clock(length_s)}, {info.shown_width_px}×{info.shown_height_px}, {info.codec}; "
        f"{len(video.manifest.kept):,} samples, {kept:,} stored"
    )


def _tiles(video: VideoReport) -> list[tuple[str, str, str]]:
    manifest, size = video.manifest, video.size_bytes
    samples, kept = len(manifest.kept), int(manifest.kept.sum())
    found = [
        ("samples", f"{samples:,}", f"{kept:,} stored, {samples - kept:,} pointers"),
        ("scenes", f"{len(video.scenes):,}", "a guess from what changes"),
    ]
    if not video.segments:
        return found
    minutes = max(video.edges_s[-1] - video.edges_s[0], 1e-9) / 60
    found.append(("cache", in_bytes(size), f"{in_bytes(size / minutes)} a minute"))
    full = video.fp16_kv_bytes
    found.append(("smaller", f"{full / size:,.1f}×", f"than {in_bytes(full)} of FP16 K and V"))
    codec, fidelity = video.segments[0].header.codec, video.fidelity
    if fidelity is not None:
        kl = f"KL {fidelity.kl:.4f} nats a token"
        found.append(("same tokens", f"{fidelity.agreement:.1%}", kl))
    elif codec.name == "plain":
        found.append(("fidelity", "lossless", "what memory holds"))
    seconds = sum(video.seconds.values())
    found.append(
        ("made in", f"{seconds:,.1f} s", f"{60 * minutes / max(seconds, 1e-9):,.1f}× real time")
    )
    return found


def _facts(video: VideoReport) -> dict[str, dict[str, str]]:
    manifest = video.manifest
    header, info = manifest.header, manifest.video
    found = {
        "Video": {
            "name": shown_name(info.name),
            "digest": info.sha256[:16],
            "size": in_bytes(info.size_bytes),
            "coded": f"{info.width_px}×{info.height_px}, {info.codec}",
            "read": f"{header.decoded_s:,.1f} s",
            "warning": shown_name(header.warning or "none"),
        },
        "Analysis": {
            "rate": f"{header.sampling.rate_hz:g} a second, every {header.interval_s:g} s",
            "cells": f"{manifest.geometry.rows}×{manifest.geometry.columns} of "
            f"{manifest.geometry.height_px}×{manifest.geometry.width_px} px",
            "profile": profile_name(header.thresholds) or "its own thresholds",
            "saliency": "a network" if header.saliency_sha256 else "edges and colours",
            "manifest": manifest.sha256[:16],
        },
    }
    if video.segments:
        first = video.segments[0].header
        codec, fidelity = first.codec, video.fidelity
        step = "" if codec.step is None else f", step {codec.step:g}"
        found["Cache"] = {
            "path": shown_name(video.cache or ""),
            "model": first.model.id,
            "computed in": first.model.dtype,
            "quality": f"{codec.quality}, codec {codec.name}{step}",
            "basis": "in a calibration" if codec.calibration else "in the file",
            "segments": f"{len(video.segments):,}",
            "policy": first.policy.name,
            "positions": first.layout.positions,
            "format": f"{first.format.major}.{first.format.minor}, of {first.tool}",
        }
        if fidelity is not None:
            measured = f"{fidelity.questions:,} questions, {fidelity.tokens:,} tokens"
            found["Cache"]["fidelity of"] = measured
    found["Seconds"] = {name: f"{spent:,.2f}" for name, spent in video.seconds.items()}
    return found


def _answer(answer: ShownAnswer) -> dict[str, Any]:
    times = ", ".join(f"{clock(start)}–{clock(stop)}" for start, stop in answer.evidence)
    share = None if answer.likelihood is None else math.exp(answer.likelihood)
    return {
        "question": answer.question,
        "text": answer.text if answer.complete else f"{answer.text} …",
        "truth": answer.truth,
        "remark": answer.remark,
        "wrong": answer.remark == "wrong",
        "share": share,
        "likelihood": "" if share is None else f"{share:.0%} likely",
        "rests": f"rests on {times}" if times else "rests on no time",
        "notes": answer.notes,
    }


def _number(text: str) -> Any:
    return lambda value: Cell("", "") if value is None else Cell(text.format(value), value)


def _size(value: float | None) -> Cell:
    return Cell("", "") if value is None else Cell(in_bytes(value), value)


def _time(value: datetime | None) -> Cell:
    return Cell("", "") if value is None else Cell(f"{value:%Y-%m-%d %H:%M}", value.timestamp())


def _length(value: float | None) -> Cell:
    return Cell("", "") if value is None else Cell(clock(round(value)), value)


_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("length", "num", lambda row: _length(row.get("duration_s"))),
    ("samples", "num wide", lambda row: _number("{:,}")(row.get("samples"))),
    ("stored", "num wide", lambda row: _number("{:,}")(row.get("stored_samples"))),
    ("cache", "num", lambda row: _size(row.get("cache_bytes"))),
    ("smaller", "num", lambda row: _number("{:,.1f}×")(row.get("compression"))),
    ("same tokens", "num wide", lambda row: _number("{:.1%}")(row.get("agreement"))),
    ("seconds", "num wide", lambda row: _number("{:,.1f}")(_seconds(row))),
    ("finished", "wide", lambda row: _time(row.get("finished"))),
)
"""Heading, class, and what of a row stands below it."""


def _seconds(row: Mapping[str, Any]) -> float | None:
    found = [row.get(f"{phase}_seconds") for phase in ("analyze", "encode", "prefill")]
    spent = [one for one in found if one is not None]
    return sum(spent) if spent else None


def _work(work: Work) -> dict[str, Any]:
    rows = work.rows
    states = Counter(row["status"] for row in rows)
    done = [row for row in rows if row["status"] in ("done", "gone")]
    held = sum(row["cache_bytes"] for row in done)
    full = sum(row["fp16_kv_bytes"] for row in done)
    hours = sum(row.get("duration_s") or 0 for row in done) / 3600
    waiting = states["pending"] + states["analyzed"]
    more = f"{waiting:,} pending" if waiting else work.rate
    tiles = [
        ("done", f"{states['done'] + states['gone']:,}", more),
        ("failed", f"{states['failed']:,}", "by reason below" if states["failed"] else ""),
        ("video", f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min", ""),
        ("caches", in_bytes(held), f"{in_bytes(held / hours)} an hour" if hours else ""),
    ]
    if held:
        tiles.append(("smaller", f"{full / held:,.1f}×", f"than {in_bytes(full)} of FP16 K and V"))
    if waiting and work.rate:
        tiles.append(("rate", work.rate, ""))
    shown = len(rows) if work.total is None else work.total
    text = f"{len(rows):,} rows"
    if shown > len(rows):
        text = f"{len(rows):,} of {shown:,} rows, the last ones done; the catalogue has all"
    return {
        "name": f"{work.name} · {work.model}" if work.name else work.model,
        "tiles": tiles,
        "nights": nights(rows),
        "failed": Counter(str(row.get("reason")) for row in rows if row["status"] == "failed"),
        "shown": text,
        "rows": [_archive_row(row, work.pages) for row in rows],
    }


def _archive_row(row: Mapping[str, Any], pages: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": Path(row["path"]).name,
        "page": pages.get(row.get("video") or ""),
        "status": row["status"],
        "reason": row.get("reason"),
        "message": row.get("message") or row.get("warning"),
        "cells": [(make(row), ("", kind)) for _, kind, make in _COLUMNS],
    }


def nights(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
        else:
            done[day] += 1
            held[day] += row.get("cache_bytes") or 0
    days = sorted({*done, *failed})[-_MOST_NIGHTS:]
    most = max((done[day] + failed[day] for day in days), default=1)
    return [
        {
            "day": day[5:],
            "done": f"{done[day]:,}",
            "height": round(78 * done[day] / most, 1),
            "failed_height": round(78 * failed[day] / most, 1),
            "said": f"{day}: {done[day]:,} done, {failed[day]:,} failed, {in_bytes(held[day])}",
        }
        for day in days
    ]
