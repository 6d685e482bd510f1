"""The figures of long videos, from what was measured of each. Measures nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from batch.answering import RetrievedAnswer
from batch.evaluation.bench.long_answers import EvidenceMatch, match_evidence
from batch.evaluation.measuring import BytesRead
from batch.evaluation.worlds.needles import Moment

GROWING = ("analyze", "prefill", "answer", "answer_full_budget")
"""Phases whose peaks are compared. A question loads what it is about, and in a longer video more
is; the last is answering where each question loads as many tokens as it may."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a phase, the model's loading left out."""

    seconds: float
    peak_bytes: int | None
    """Resident memory at its highest, above what there was when the model was loaded."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video from its film to what was retrieved; replies are in the order of `moments`."""

    samples: int
    moments: list[Moment]
    stored: dict[str, int]
    """What of it lies on disk: bytes, tokens, segments, tokens of the largest."""
    costs: dict[str, Cost]
    replies: list[RetrievedAnswer]
    scopes: Mapping[str, tuple[float, list[str]]] = field(default_factory=dict)
    """Seconds and answers of other scopes; none of a video that only its costs are wanted of."""

    @property
    def questions(self) -> list[str]:
        return [moment.question.text for moment in self.moments]

    def answered(self) -> Iterator[tuple[Moment, dict[str, str]]]:
        """Each question's moment, with its answer in each scope."""
        by_scope = {
            "retrieve": [reply.text for reply in self.replies],
            **{scope: answers for scope, (_, answers) in self.scopes.items()},
        }
        for moment, *answers in zip(self.moments, *by_scope.values(), strict=True):
            yield moment, dict(zip(by_scope, answers, strict=True))

    def to_dict(self) -> dict[str, Any]:
        seconds = {phase: cost.seconds for phase, cost in self.costs.items()}
        return {
            "samples": self.samples,
            "questions": len(self.moments),
            **self.stored,
            "seconds": seconds | {scope: took for scope, (took, _) in self.scopes.items()},
            "peak_bytes": {phase: self.costs[phase].peak_bytes for phase in GROWING},
        }


def summarise(
    short: Video,
    videos: Sequence[Video],
    reads: Sequence[BytesRead],
    short_films: Mapping[str, Sequence[EvidenceMatch]],
    *,
    budget_tokens: int,
) -> dict[str, Any]:
    """What `run_long` returns under "long".

    Args:
        short: the video whose peaks are compared with the others'.
        reads: of each question to the first video.
        short_films: evidence in films of some seconds, by variant.
    """
    answered = [(video, *each) for video in videos for each in video.answered()]
    replies = [
        (video, moment, reply)
        for video in videos
        for moment, reply in zip(video.moments, video.replies, strict=True)
    ]
    matches = [match_evidence(reply, moment, video.samples) for video, moment, reply in replies]
    quarters: dict[int, list[dict[str, bool]]] = {quarter: [] for quarter in range(4)}
    kinds: dict[str, list[dict[str, bool]]] = {}
    for video, moment, answers in answered:
        right = {scope: answer == moment.question.answer for scope, answer in answers.items()}
        quarters[4 * moment.first_sample // video.samples].append(right)
        kinds.setdefault(moment.question.kind, []).append(right)
    accuracy = _accuracy([right for each in kinds.values() for right in each])
    growth = {phase: _growth(short, videos, phase) for phase in GROWING}
    read = _read(videos[0], reads, budget_tokens)
    known = [grown for phase in ("prefill", "answer") if (grown := growth[phase]) is not None]
    scopes = ("retrieve", "bound", "bound_retrieve", "uniform", "all", "elsewhere")
    return {
        **{f"accuracy_{scope}": accuracy.get(scope) for scope in scopes},
        "read_over_budget": max(read["over_budget"]),
        "peak_growth": max(known, default=None),
        "figures": {
            "questions": len(answered),
            "budget_tokens": budget_tokens,
            "accuracy_by_quarter": [_accuracy(each) for each in quarters.values()],
            "accuracy_by_kind": {kind: _accuracy(kinds[kind]) for kind in sorted(kinds)},
            "retrieved": _retrieved([(moment, reply) for _, moment, reply in replies]),
            "read": read,
            "growth": growth,
            "evidence": {
                kind: _evidence(found)
                for kind, found in {"retrieve": matches, **short_films}.items()
            },
            "short": short.to_dict(),
            "videos": [video.to_dict() for video in videos],
            "answers": [
                {**asdict(moment.question), "first_s": moment.first_sample, "said": answers}
                for _, moment, answers in answered
            ],
        },
    }


def _accuracy(right: Sequence[dict[str, bool]]) -> dict[str, float]:
    scopes = right[0] if right else ()
    return {scope: float(np.mean([one[scope] for one in right])) for scope in scopes}


def _growth(short: Video, videos: Sequence[Video], phase: str) -> float | None:
    """The highest peak of a phase, divided by that of the short video."""
    peaks = [video.costs[phase].peak_bytes for video in (short, *videos)]
    known = [peak for peak in peaks if peak is not None]
    return max(known[1:]) / known[0] if len(known) == len(peaks) else None


def _read(video: Video, reads: Sequence[BytesRead], budget_tokens: int) -> dict[str, list[float]]:
    """What each question read, as shares of the file; `over_` what tokens have of all tokens."""
    size_bytes, tokens = video.stored["size_bytes"], video.stored["tokens"]
    shares = [(one.asked + one.mapped) / size_bytes for one in reads]
    budget = min(1.0, budget_tokens / tokens)
    return {
        "over_budget": [share - budget for share in shares],
        "over_loaded_rows": [
            share - reply.loaded_tokens / tokens
            for share, reply in zip(shares, video.replies, strict=True)
        ],
        "share_of_file": shares,
        "from_disk": [one.disk / size_bytes for one in reads],
    }


def _retrieved(replies: Sequence[tuple[Moment, RetrievedAnswer]]) -> dict[str, float | None]:
    """What was loaded for a question, and how often some of its moment was among it."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for moment, reply in replies:
        shown = range(moment.first_sample, moment.first_sample + moment.samples)
        is_found = any(sample in shown for sample in reply.samples)
        right[is_found].append(reply.text == moment.question.answer)
    tokens = [reply.loaded_tokens for _, reply in replies]
    return {
        "found": len(right[True]) / len(replies),
        "right_if_found": _mean(right[True]),
        "right_if_not": _mean(right[False]),
        "tokens_mean": _mean(tokens),
        "tokens_most": max(tokens),
        "samples_mean": _mean([len(reply.samples) for _, reply in replies]),
    }


def _evidence(matches: Sequence[EvidenceMatch]) -> dict[str, float | int]:
    """Means over the right answers; `touched` is the share that names any of the moment."""
    right = [one for one in matches if one.is_right]
    if not right:
        return {"right": 0, "questions": len(matches)}
    return {
        "recall": float(np.mean([one.recall for one in right])),
        "touched": float(np.mean([one.recall > 0 for one in right])),
        "share_named": float(np.mean([one.share for one in right])),
        "right": len(right),
        "questions": len(matches),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
