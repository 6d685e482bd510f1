"""The figures of each method over many videos, with intervals, and whether they prove anything.

Knows runs; runs, draws and writes nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.runs import AnsweredQuestion, Label, Run
from batch.evaluation.scoring import Bleu, rouge_l

RESAMPLES = 2000
CONFIDENCE = 0.95

_RATIOS = {
    "accuracy": ("right", "questions"),
    "retained": ("right", "reference_right"),
    "agreement_em": ("agree", "questions"),
    "rouge_l": ("rouge_l", "questions"),
    "empty_share": ("empty", "questions"),
    "kl": ("kl", "questions"),
    "bytes": ("size_bytes", "videos"),
    "kv_bytes": ("kv_bytes", "videos"),
    "compression_fp16": ("fp16_bytes", "size_bytes"),
    "compression_kv": ("fp16_bytes", "kv_bytes"),
    "seconds_per_sample": ("seconds", "samples"),
}
"""Figures that are one sum over the videos divided by another, by the names of `_sums`."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its confidence interval; None where it cannot be known."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's figures over the same questions as every other row."""

    label: Label
    questions: int
    videos: int
    figures: dict[str, Figure]
    peak_bytes: int | None
    void: str | None
    """Why accuracy and agreement say nothing; None: they do."""

    def to_dict(self) -> dict[str, Any]:
        """Flat values by name, and `intervals` of those that have one."""
        return {
            "method": self.label.method,
            "profile": self.label.profile,
            "budget": self.label.budget,
            "n": self.questions,
            "videos": self.videos,
            **{name: figure.value for name, figure in self.figures.items()},
            "peak_bytes": self.peak_bytes,
            "void": self.void,
            "intervals": {
                name: [figure.low, figure.high]
                for name, figure in self.figures.items()
                if figure.low is not None
            },
        }


def tabulate(runs: Sequence[Run]) -> list[Row]:
    """A row for each method, in the order in which they ran."""
    void = void_reason(runs)
    return [_row(label, own, void) for label, own in by_label(runs).items()]


def by_label(runs: Sequence[Run]) -> dict[Label, list[Run]]:
    """The runs of each method."""
    found: dict[Label, list[Run]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return found


def void_reason(runs: Sequence[Run]) -> str | None:
    """Why a comparison proves nothing; None if it may prove something.

    A method that gives no answer agrees with another that gives none, and one that always says
    the same is sometimes right: neither is a finding.
    """
    answers = [one.answer for run in runs for one in run.answers]
    if not any(answer.strip() for answer in answers):
        return "every answer is empty"
    best = {label: _share_right(own) for label, own in by_label(runs).items()}
    chance = _constant_share(next(iter(by_label(runs).values())))
    if max(best.values()) <= chance:
        return f"no method is right more often than the same answer to all ({chance:.3f})"
    return None


def accuracy_by_kind(runs: Sequence[Run]) -> dict[Label, dict[str, float]]:
    """Share of right answers of each method to each kind of question."""
    return _accuracy_by(runs, lambda run, one: one.question.kind)


def accuracy_by_set(runs: Sequence[Run]) -> dict[Label, dict[str, float]]:
    """Share of right answers of each method in each question set."""
    return _accuracy_by(runs, lambda run, one: run.data)


def measure(runs: Sequence[Run]) -> dict[str, Figure]:
    """Figures of one method; intervals by bootstrap over videos, with a fixed seed.

    - accuracy: share of right answers; retained: that, divided by the uncompressed model's.
    - agreement_em, bleu, rouge_l: against the uncompressed model's answers, 0..1.
    - kl: mean over questions, nats. empty_share: answers without a word.
    - bytes, kv_bytes: mean over videos. compression_fp16, compression_kv: FP16 K and V of all
      slots divided by each.
    - seconds_per_sample: all parts, without answering.
    """
    of_runs = [_sums(run) for run in runs]
    names = list(of_runs[0])
    sums = np.array([list(of_run.values()) for of_run in of_runs], np.float64)
    bleu = Bleu.of([[(one.answer, one.reference) for one in run.answers] for run in runs])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), RESAMPLES)
    once = np.ones((1, len(runs)), np.int64)

    def figure(of: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Figure:
        value, resampled = float(of(once)[0]), of(drawn)
        if np.isnan(value):
            return Figure(value=None, low=None, high=None)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(resampled, [tail, 1 - tail])
        return Figure(value=value, low=float(low), high=float(high))

    def ratio(upper: str, lower: str) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
        top, bottom = sums[:, names.index(upper)], sums[:, names.index(lower)]

        def of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
            with np.errstate(divide="ignore", invalid="ignore"):
                shares: NDArray[np.float64] = (counts @ top) / (counts @ bottom)
            return np.where(np.isinf(shares), np.nan, shares)

        return of

    figures = {name: figure(ratio(*parts)) for name, parts in _RATIOS.items()}
    return {**figures, "bleu": figure(bleu.scores)}


def _row(label: Label, runs: list[Run], void: str | None) -> Row:
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return Row(
        label=label,
        questions=sum(len(run.answers) for run in runs),
        videos=len(runs),
        figures=measure(runs),
        peak_bytes=max(peaks, default=None),
        void=void,
    )


def _accuracy_by(
    runs: Sequence[Run], group: Callable[[Run, AnsweredQuestion], str]
) -> dict[Label, dict[str, float]]:
    found = {}
    for label, own in by_label(runs).items():
        marks: dict[str, list[bool]] = {}
        for run in own:
            for one in run.answers:
                marks.setdefault(group(run, one), []).append(one.is_right)
        found[label] = {name: sum(each) / len(each) for name, each in marks.items()}
    return found


def _share_right(runs: Sequence[Run]) -> float:
    marks = [one.is_right for run in runs for one in run.answers]
    return sum(marks) / len(marks)


def _constant_share(runs: Sequence[Run]) -> float:
    """What the commonest true answer of each kind would get; with options, guessing if better."""
    questions = [one.question for run in runs for one in run.answers]
    kinds: dict[str, Counter[str]] = {}
    for question in questions:
        kinds.setdefault(question.kind, Counter())[question.answer] += 1
    constant = sum(truths.most_common(1)[0][1] for truths in kinds.values()) / len(questions)
    guessed = sum(1 / len(question.options) for question in questions if question.options)
    return max(constant, guessed / len(questions))


def _sums(run: Run) -> dict[str, float]:
    answers = run.answers
    return {
        "questions": len(answers),
        "right": sum(one.is_right for one in answers),
        "reference_right": sum(one.is_reference_right for one in answers),
        "agree": sum(one.answer == one.reference for one in answers),
        "rouge_l": sum(rouge_l(one.answer, one.reference) for one in answers),
        "empty": sum(not one.answer.strip() for one in answers),
        "kl": float(np.sum([np.nan if one.kl is None else one.kl for one in answers])),
        "videos": 1,
        "samples": run.samples,
        "seconds": run.seconds,
        "size_bytes": run.size_bytes,
        "kv_bytes": run.kv_bytes,
        "fp16_bytes": run.fp16_bytes,
    }
