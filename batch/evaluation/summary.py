"""The figures of each method over many videos, with intervals, and whether they prove anything.

Knows runs; runs, draws and writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.runs import AnsweredQuestion, Label, Run
from batch.evaluation.scoring import Bleu, rouge_l

RESAMPLES = 2000
CONFIDENCE = 0.95
NEXT_TOKENS = "next tokens"
"""The question set of text in which every token of what follows is one."""

_RATIOS = {
    "accuracy": ("right", "questions"),
    "retained": ("right", "reference_right"),
    "agreement_em": ("agree", "questions"),
    "rouge_l": ("rouge_l", "questions"),
    "empty_share": ("empty", "questions"),
    "kl": ("kl", "questions"),
    "nll_rise": ("nll_rise", "questions"),
    "bytes": ("size_bytes", "videos"),
    "kv_bytes": ("kv_bytes", "videos"),
    "compression_fp16": ("fp16_bytes", "size_bytes"),
    "compression_kv": ("fp16_bytes", "kv_bytes"),
    "seconds_per_sample": ("seconds", "samples"),
}
"""Figures that are one sum over the videos divided by another, by the names of `_sums`."""
_OF_ANSWERS = ("accuracy", "retained")
_OF_NEXT_TOKENS = (
    *("agreement_em", "kl", "nll_rise", "bytes", "kv_bytes", "compression_fp16", "compression_kv"),
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its confidence interval; None where it cannot be known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's figures over the same questions as every other row; judge: whose they are."""

    judge: str
    label: Label
    runs: Sequence[Run]
    figures: dict[str, Figure]
    void: str | None
    """Why accuracy and agreement say nothing; None: they do."""

    @property
    def kind(self) -> str | None:
        return self.runs[0].kind

    @property
    def in_file(self) -> bool | None:
        return self.runs[0].in_file

    @property
    def questions(self) -> int:
        """How many were asked; the next tokens of text are none."""
        return sum(len(run.answers) for run in self.runs if run.data != NEXT_TOKENS)

    @property
    def peak_bytes(self) -> int | None:
        return max(
            (run.peak_bytes for run in self.runs if run.peak_bytes is not None), default=None
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat values by name, and `intervals` of those that have one."""
        return {
            "judge": self.judge,
            **asdict(self.label),
            "kind": self.kind,
            "in_file": self.in_file,
            "n": self.questions,
            "videos": len(self.runs),
            **{name: figure.value for name, figure in self.figures.items()},
            "accuracy_by_kind": accuracy_by(lambda run, one: one.question.kind, self.runs),
            "peak_bytes": self.peak_bytes,
            "void": self.void,
            "intervals": intervals(self.figures),
        }


def intervals(figures: Mapping[str, Figure]) -> dict[str, list[float]]:
    """Of those figures that have one."""
    return {
        name: [figure.low, figure.high]
        for name, figure in figures.items()
        if figure.low is not None and figure.high is not None
    }


def tabulate(runs: Sequence[Run], judge: str) -> list[Row]:
    """A row for each method, in the order in which they ran."""
    void = void_reason(runs)
    return [
        Row(judge=judge, label=label, runs=own, figures=_figures(own), void=void)
        for label, own in by_label(runs).items()
    ]


def _figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """As of `measure`; of text, right answers are of what was hidden, all else of next tokens."""
    texts = [run for run in runs if run.data == NEXT_TOKENS]
    if not texts:
        return measure(runs)
    followed, asked = measure(texts), measure([run for run in runs if run.data != NEXT_TOKENS])
    return {
        **dict.fromkeys(followed, Figure()),
        **{name: asked[name] for name in _OF_ANSWERS},
        **{name: followed[name] for name in _OF_NEXT_TOKENS},
    }


def void_reason(runs: Sequence[Run]) -> str | None:
    """Why a comparison proves nothing; None if it may prove something.

    A method that gives no answer agrees with another that gives none, and one that always says
    the same is sometimes right: neither is a finding.
    """
    if not any(one.answer.strip() for run in runs for one in run.answers):
        return "every answer is empty"
    methods = list(by_label(runs).values())
    best = max(np.mean([one.is_right for run in own for one in run.answers]) for own in methods)
    chance = _constant_share(methods[0])
    if best <= chance:
        return f"no method is right more often than the same answer to all ({chance:.3f})"
    return None


def accuracy_by(
    group: Callable[[Run, AnsweredQuestion], str], runs: Sequence[Run]
) -> dict[str, float]:
    """Share of right answers in each group of them."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        for one in run.answers:
            marks[group(run, one)].append(one.is_right)
    return {name: sum(each) / len(each) for name, each in marks.items()}


def measure(runs: Sequence[Run]) -> dict[str, Figure]:
    """Figures of one method; intervals by bootstrap over videos, with a fixed seed.

    - accuracy: share of right answers; retained: that, divided by the uncompressed model's.
    - agreement_em, bleu, rouge_l: against the uncompressed model's answers, 0..1.
    - kl: mean over questions, nats. empty_share: answers without a word. nll_rise: of text, the
      logarithm of perplexity against the uncompressed model's.
    - bytes, kv_bytes: mean over videos. compression_fp16, compression_kv: FP16 K and V of all
      slots divided by each.
    - seconds_per_sample: all parts, without answering.
    """
    of_runs = [_sums(run) for run in runs]
    table = np.array([list(of_run.values()) for of_run in of_runs], np.float64)
    sums = dict(zip(of_runs[0], table.T, strict=True))
    bleu = Bleu.of([[(one.answer, one.reference) for one in run.answers] for run in runs])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), RESAMPLES)
    once = np.ones((1, len(runs)), np.int64)

    def ratio(upper: str, lower: str, times: NDArray[np.int64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            shares: NDArray[np.float64] = (times @ sums[upper]) / (times @ sums[lower])
        return np.where(np.isinf(shares), np.nan, shares)

    figures = {
        name: _figure(ratio(*parts, once), ratio(*parts, drawn)) for name, parts in _RATIOS.items()
    }
    return {**figures, "bleu": _figure(bleu.scores(once), bleu.scores(drawn))}


def by_label(runs: Iterable[Run]) -> dict[Label, list[Run]]:
    """Runs by what their rows are called, in the order in which they ran."""
    found: dict[Label, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.label].append(run)
    return found


def _figure(value: NDArray[np.float64], resampled: NDArray[np.float64]) -> Figure:
    if np.isnan(value[0]):
        return Figure()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Figure(value=float(value[0]), low=float(low), high=float(high))


def _constant_share(runs: Sequence[Run]) -> float:
    """What the commonest true answer of each kind would get; with options, guessing if better."""
    questions = [one.question for run in runs for one in run.answers]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        kinds[question.kind][question.answer] += 1
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
        "kl": float(np.sum([_known(one.kl) for one in answers])),
        "nll_rise": float(np.sum([_known(one.nll_rise) for one in answers])),
        "videos": 1,
        "samples": run.samples,
        "seconds": _known(run.seconds),
        "size_bytes": run.size_bytes,
        "kv_bytes": run.kv_bytes,
        "fp16_bytes": run.fp16_bytes,
    }


def _known(value: float | None) -> float:
    return np.nan if value is None else value
