"""The figures of a method over many videos, with intervals. Draws and writes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.runs import Asked, Run
from batch.evaluation.scoring import is_right
from batch.evaluation.text import Bleu, rouge_l

RESAMPLES = 2000
CONFIDENCE = 0.95

_SUMS = (
    "questions",
    "right",
    "reference_right",
    "agree",
    "rouge_l",
    "empty",
    "kl",
    "videos",
    "samples",
    "seconds",
    "size_bytes",
    "kv_bytes",
    "fp16_bytes",
)
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
"""Figures that are one sum over the videos divided by another."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its confidence interval; None where it cannot be known."""

    value: float | None
    low: float | None
    high: float | None


def measure(runs: Sequence[Run]) -> dict[str, Figure]:
    """Figures of one method; intervals by bootstrap over videos, with a fixed seed.

    - accuracy: share of right answers; retained: that, divided by the uncompressed model's.
    - agreement_em, bleu, rouge_l: against the uncompressed model's answers, 0..1.
    - kl: mean over questions, nats. empty_share: answers without a word.
    - bytes, kv_bytes: mean over videos. compression_fp16, compression_kv: FP16 K and V of all
      slots divided by each.
    - seconds_per_sample: all parts, without answering.
    """
    sums = np.array([_sums(run) for run in runs], np.float64)
    bleu = Bleu.of([[(one.answer, one.reference) for one in run.asked] for run in runs])
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
        top, bottom = sums[:, _SUMS.index(upper)], sums[:, _SUMS.index(lower)]

        def of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
            with np.errstate(divide="ignore", invalid="ignore"):
                shares: NDArray[np.float64] = (counts @ top) / (counts @ bottom)
            return np.where(np.isinf(shares), np.nan, shares)

        return of

    figures = {name: figure(ratio(*parts)) for name, parts in _RATIOS.items()}
    return {**figures, "bleu": figure(bleu.scores)}


def right(one: Asked) -> bool:
    """Whether a method's answer is the truth."""
    return is_right(one.answer, one.question.answer, one.question.options)


def reference_right(one: Asked) -> bool:
    """Whether the uncompressed model's answer is the truth."""
    return is_right(one.reference, one.question.answer, one.question.options)


def _sums(run: Run) -> tuple[float, ...]:
    asked = run.asked
    kl = [np.nan if one.kl is None else one.kl for one in asked]
    return (
        len(asked),
        sum(map(right, asked)),
        sum(map(reference_right, asked)),
        sum(one.answer == one.reference for one in asked),
        sum(rouge_l(one.answer, one.reference) for one in asked),
        sum(not one.answer.strip() for one in asked),
        float(np.sum(kl)),
        1,
        run.samples,
        run.seconds,
        run.size_bytes,
        run.kv_bytes,
        run.fp16_bytes,
    )
