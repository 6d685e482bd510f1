"""Rows of methods, as values and as text. Knows runs and their figures; runs nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batch.evaluation.measure import Figure, measure, right
from batch.evaluation.runs import Label, Run


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
    answers = [one.answer for run in runs for one in run.asked]
    if not any(answer.strip() for answer in answers):
        return "every answer is empty"
    best = {label: _share_right(own) for label, own in by_label(runs).items()}
    chance = _constant_share(next(iter(by_label(runs).values())))
    if max(best.values()) <= chance:
        return f"no method is right more often than the same answer to all ({chance:.3f})"
    return None


def accuracy_by_kind(runs: Sequence[Run]) -> dict[Label, dict[str, float]]:
    """Share of right answers of each method to each kind of question."""
    found = {}
    for label, own in by_label(runs).items():
        marks: dict[str, list[bool]] = {}
        for one in (one for run in own for one in run.asked):
            marks.setdefault(one.question.kind, []).append(right(one))
        found[label] = {kind: sum(each) / len(each) for kind, each in marks.items()}
    return found


def accuracy_by_set(runs: Sequence[Run]) -> dict[Label, dict[str, float]]:
    """Share of right answers of each method in each question set."""
    found: dict[Label, dict[str, float]] = {}
    for label, own in by_label(runs).items():
        names = dict.fromkeys(run.data for run in own)
        found[label] = {
            name: _share_right([run for run in own if run.data == name]) for name in names
        }
    return found


def _row(label: Label, runs: list[Run], void: str | None) -> Row:
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return Row(
        label=label,
        questions=sum(len(run.asked) for run in runs),
        videos=len(runs),
        figures=measure(runs),
        peak_bytes=max(peaks, default=None),
        void=void,
    )


def _share_right(runs: Sequence[Run]) -> float:
    marks = [right(one) for run in runs for one in run.asked]
    return sum(marks) / len(marks)


def _constant_share(runs: Sequence[Run]) -> float:
    """What the commonest true answer of each kind would get; with options, guessing if better."""
    questions = [one.question for run in runs for one in run.asked]
    kinds: dict[str, Counter[str]] = {}
    for question in questions:
        kinds.setdefault(question.kind, Counter())[question.answer] += 1
    constant = sum(truths.most_common(1)[0][1] for truths in kinds.values()) / len(questions)
    guessed = sum(1 / len(question.options) for question in questions if question.options)
    return max(constant, guessed / len(questions))
