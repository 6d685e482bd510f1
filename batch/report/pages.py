"""Pages of HTML: a video, answers and what they rest on. Data in, a string out.

    video = VideoReport.read(Path("caches/holiday.safetensors"))     # a cache, or a manifest
    html = video_page(video)                                         # all that is known of it
    found = AnsweredVideo(video=video, answers=[ShownAnswer.of(answer)])
    html = answers_page([found], title="Who is at the door?")        # and what answers rest on

A page is one file: it loads nothing from anywhere and runs only its own script, whatever names of
files, questions and answers hold. `up` is the address of the page of all videos; `ask` is one that
a question is sent to (POST, form field `question`), of a server that answers with a page. No torch
is needed. The page of all videos is `archives.archive_page`; `batch report` writes all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from batch.analysis.tiers import profile_name
from batch.report.drawing import Rest, clock, draw
from batch.report.pictures import MOST_PICTURES
from batch.report.rendering import in_bytes, render, shown_name
from batch.report.tiers import STATES
from batch.report.videos import VideoReport
from batch.video import length_s

if TYPE_CHECKING:
    from batch.answering import Answer

_FEWEST_PICTURES = 12
"""Of a video, however many are on a page."""


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """An answer as a page shows it.

    - evidence: times that it rests on, s, half-open.
    - likelihood: natural logarithm of the probability of a token, a mean; None: not measured.
    - cells: of a sample, how much each of its cells counts, [cells].
    - truth: if it is known; remark: on an answer that is not the truth.
    - notes: more lines, as what was read for it.
    """

    question: str
    text: str
    evidence: Sequence[tuple[float, float]] = ()
    likelihood: float | None = None
    complete: bool = True
    cells: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    truth: str | None = None
    remark: str = ""
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, answer: "Answer") -> Self:
        """What a model answered."""
        found = answer.to_dict()
        return cls(
            question=found["question"],
            text=found["answer"],
            evidence=[(part["start_s"], part["stop_s"]) for part in found["evidence"]],
            likelihood=found.get("likelihood"),
            complete=found["complete"],
            cells=answer.cells,
        )


@dataclass(frozen=True, kw_only=True)
class AnsweredVideo:
    """A video with answers about it; `page` is the address of its own page."""

    video: VideoReport
    answers: Sequence[ShownAnswer]
    page: str | None = None


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
    return render(
        "video.html",
        title=shown_name(manifest.video.name),
        subtitle=_subtitle(video),
        up=up,
        ask=ask,
        digest=digest,
        tiles=_tiles(video),
        tiers=[name for name in STATES.values() if name != "reused" or video.reuses_cells],
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
            "subtitle": _subtitle(one.video) + _cache_size(one.video),
            "answers": [_answer(answer) for answer in one.answers],
            "has_cells": any(answer.cells for answer in one.answers),
            "video": draw(
                one.video,
                [Rest(evidence=answer.evidence, cells=answer.cells) for answer in one.answers],
                name=f"v{number}",
                most=most,
                with_tiers=False,
            ),
        }
        for number, one in enumerate(answered)
    ]
    return render(
        "answers.html",
        title=title,
        introduction=introduction,
        up=up,
        ask=ask,
        digest="",
        videos=videos,
    )


def _subtitle(video: VideoReport) -> str:
    info, shown_s = video.manifest.video, video.edges_s[-1] - video.edges_s[0]
    kept = int(video.manifest.kept.sum())
    return (
        f"{clock(shown_s)}, {info.shown_width_px}×{info.shown_height_px}, {info.codec}; "
        f"{len(video.manifest.kept):,} samples, {kept:,} kept"
    )


def _cache_size(video: VideoReport) -> str:
    if not video.segments:
        return ""
    size, full = video.size_bytes, video.fp16_kv_bytes
    return f"; a cache of {in_bytes(size)}, {full / size:,.1f}× smaller than FP16 K and V"


def _tiles(video: VideoReport) -> list[tuple[str, str, str]]:
    manifest, size = video.manifest, video.size_bytes
    samples, kept = len(manifest.kept), int(manifest.kept.sum())
    found = [
        ("samples", f"{samples:,}", f"{kept:,} kept, {samples - kept:,} redundant"),
        ("scenes", f"{len(video.scenes):,}", "a guess from what changes"),
    ]
    if not video.segments:
        return found
    minutes = length_s(manifest.pts_s) / 60
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
