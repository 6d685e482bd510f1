"""The figures of long videos, from what was measured of each. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from batch.answering import RetrievedAnswer
from batch.demo.moments import Moment
from batch.evaluation.bench.evidence import Named, named, summary
from batch.evaluation.bench.reading import BytesRead
from batch.evaluation.bench.scopes import Answered
from batch.evaluation.bench.stages import Cost

QUARTERS = 4
GROWING = ("analyze", "prefill", "answer", "answer_full_budget")
"""Phases whose peaks are compared. A question loads what it is about, and in a longer video more
is; the last is answering where each question loads as many tokens as it may."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What there is of a video on disk."""

    size_bytes: int
    tokens: int
    segments: int
    largest_segment: int
    """Tokens of the largest segment."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video from its film to what was retrieved; replies are in the order of `moments`."""

    samples: int
    moments: list[Moment]
    stored: Stored
    costs: dict[str, Cost]
    replies: list[RetrievedAnswer]
    scopes: Mapping[str, Answered]
    """Answers of other scopes; none of a video that only its costs are wanted of."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One question and who was right."""

    position: float
    """Where in the video its moment begins, 0..1."""
    kind: str
    right: dict[str, bool]


def summarise(
    short: Video,
    videos: Sequence[Video],
    reads: Sequence[BytesRead],
    short_films: Mapping[str, Sequence[Named]],
    *,
    budget_tokens: int,
) -> dict[str, Any]:
    """What `run_long` returns under "long".

    Args:
        short: the video whose peaks are compared with the others'.
        reads: of each question to the first video.
        short_films: evidence in films of some seconds, by variant.
    """
    rows = [row for video in videos for row in _rows(video)]
    accuracy = _accuracy(rows)
    growth = {phase: _growth(short, videos, phase) for phase in GROWING}
    read = _read(videos[0], reads, budget_tokens)
    within = [phase for phase in ("prefill", "answer") if growth[phase] is not None]
    return {
        "accuracy_retrieve": accuracy["retrieve"],
        "accuracy_bound": accuracy["bound"],
        "accuracy_bound_retrieve": accuracy["bound_retrieve"],
        "accuracy_uniform": accuracy["uniform"],
        "accuracy_all": accuracy["all"],
        "accuracy_elsewhere": accuracy.get("elsewhere"),
        "read_over_budget": max(read["over_budget"]),
        "peak_growth": max((growth[phase] or 0.0 for phase in within), default=None),
        "figures": {
            "questions": len(rows),
            "budget_tokens": budget_tokens,
            **_parted(rows),
            "retrieved": _retrieved(videos),
            "read": read,
            "growth": growth,
            "evidence": {
                "retrieve": summary(_evidence(videos)),
                **{kind: summary(found) for kind, found in short_films.items()},
            },
            "short": _of_video(short),
            "videos": [_of_video(video) for video in videos],
            "answers": [row for video in videos for row in _answers(video)],
        },
    }


def _parted(rows: Sequence[_Row]) -> dict[str, Any]:
    """Accuracy by where in the video the moment is, and by kind of question."""
    quarters = [[r for r in rows if int(QUARTERS * r.position) == q] for q in range(QUARTERS)]
    kinds = sorted({row.kind for row in rows})
    return {
        "accuracy_by_quarter": [_accuracy(quarter) for quarter in quarters],
        "accuracy_by_kind": {
            kind: _accuracy([row for row in rows if row.kind == kind]) for kind in kinds
        },
    }


def _read(video: Video, reads: Sequence[BytesRead], budget_tokens: int) -> dict[str, list[float]]:
    """What each question read, as shares of the file."""
    over, over_rows = _over(video, reads, budget_tokens)
    size = video.stored.size_bytes
    return {
        "over_budget": over,
        "over_loaded_rows": over_rows,
        "share_of_file": [(one.asked + one.mapped) / size for one in reads],
        "from_disk": [one.disk / size for one in reads],
    }


def _evidence(videos: Sequence[Video]) -> list[Named]:
    return [
        named(reply, moment, video.samples)
        for video in videos
        for moment, reply in zip(video.moments, video.replies, strict=True)
    ]


def _answered(video: Video) -> dict[str, list[str]]:
    """Answers by scope."""
    others = {scope: answered.answers for scope, answered in video.scopes.items()}
    return {"retrieve": [reply.text for reply in video.replies], **others}


def _rows(video: Video) -> list[_Row]:
    answered = _answered(video)
    return [
        _Row(
            position=moment.first_sample / video.samples,
            kind=moment.question.kind,
            right={
                scope: answers[number] == moment.question.answer
                for scope, answers in answered.items()
            },
        )
        for number, moment in enumerate(video.moments)
    ]


def _answers(video: Video) -> list[dict[str, Any]]:
    answered = _answered(video)
    return [
        {
            **asdict(moment.question),
            "first_s": moment.first_sample,
            "said": {scope: answers[number] for scope, answers in answered.items()},
        }
        for number, moment in enumerate(video.moments)
    ]


def _accuracy(rows: Sequence[_Row]) -> dict[str, float]:
    scopes = rows[0].right if rows else ()
    return {scope: float(np.mean([row.right[scope] for row in rows])) for scope in scopes}


def _retrieved(videos: Sequence[Video]) -> dict[str, float | None]:
    """What was loaded for a question, and how often some of its moment was among it."""
    pairs = [pair for video in videos for pair in zip(video.moments, video.replies, strict=True)]
    found = [
        any(moment.first_sample <= one < moment.first_sample + moment.samples for one in samples)
        for moment, samples in ((moment, reply.samples) for moment, reply in pairs)
    ]
    said = [
        (reply.text == moment.question.answer, there)
        for (moment, reply), there in zip(pairs, found, strict=True)
    ]
    tokens = [reply.loaded_tokens for _, reply in pairs]
    return {
        "found": float(np.mean(found)),
        "right_if_found": _mean([is_right for is_right, there in said if there]),
        "right_if_not": _mean([is_right for is_right, there in said if not there]),
        "tokens_mean": float(np.mean(tokens)),
        "tokens_most": max(tokens),
        "samples_mean": float(np.mean([len(reply.samples) for _, reply in pairs])),
    }


def _growth(short: Video, videos: Sequence[Video], phase: str) -> float | None:
    """The highest peak of a phase, divided by that of the short video."""
    peaks = [video.costs[phase].peak_bytes for video in (short, *videos)]
    known = [peak for peak in peaks if peak is not None]
    return max(known[1:]) / known[0] if len(known) == len(peaks) else None


def _over(
    video: Video, reads: Sequence[BytesRead], budget_tokens: int
) -> tuple[list[float], list[float]]:
    """Share of the file read beyond that of the budget's tokens, and beyond the loaded ones'."""
    size_bytes, tokens = video.stored.size_bytes, video.stored.tokens
    shares = [(one.asked + one.mapped) / size_bytes for one in reads]
    budget = min(1.0, budget_tokens / tokens)
    loaded = [reply.loaded_tokens / tokens for reply in video.replies]
    return (
        [share - budget for share in shares],
        [share - rows for share, rows in zip(shares, loaded, strict=True)],
    )


def _of_video(video: Video) -> dict[str, Any]:
    seconds = {phase: cost.seconds for phase, cost in video.costs.items()}
    seconds |= {scope: answered.seconds for scope, answered in video.scopes.items()}
    return {
        "samples": video.samples,
        "questions": len(video.moments),
        **asdict(video.stored),
        "seconds": seconds,
        "peak_bytes": {phase: video.costs[phase].peak_bytes for phase in GROWING},
    }


def _mean(found: Sequence[bool]) -> float | None:
    return float(np.mean(found)) if found else None
