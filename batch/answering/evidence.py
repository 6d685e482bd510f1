"""From attention to the times in the video that an answer rests on."""

import numpy as np
from numpy.typing import NDArray

from batch.video import TimeRange, usual_gap_s

NEUTRAL = "?"
"""A question about nothing: attention behind it is what any question pays."""
SHARE = 0.5
"""Share of an answer's evidence that the named times hold.

Source: 131 right answers of the demo model about 12 films of 12 to 24 samples: the true moment was
among the named times for 0.96 of what is seen through a scene (42 % of the film; 23 % were named)
and 0.92 of what is seen for one or two samples (8 %; 11 % named). Attention itself, not compared
with that of a neutral question, needs 58 % of the film for 0.94 and 0.62.
"""
_LEAST = 1e-9


def sample_evidence(mass: NDArray[np.float32], neutral: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much more an answer attends to each sample than a neutral question does; [samples].

    Most heads look at the same samples whatever is asked. So each sample counts with its share of
    the relative entropy between the two attentions [layers, heads, samples], a mean over all
    heads; 0 where there is less. If no sample gets more, each counts with the attention itself.
    """
    gain = mass * np.log((mass + _LEAST) / (neutral + _LEAST))
    evidence: NDArray[np.float32] = np.maximum(gain.mean((0, 1)), 0)
    return evidence if evidence.any() else mass.mean((0, 1))


def cell_evidence(mass: NDArray[np.float32], neutral: NDArray[np.float32]) -> NDArray[np.float32]:
    """Which cells of one sample an answer attends to more than a neutral question does; [cells].

    As of `sample_evidence`, but of the mean over layers and heads, and of the shares that cells
    have of what the sample gets: of a sample that is looked at less, some cells still get more.
    """
    of_answer, usual = (one / max(one.sum(), _LEAST) for one in (mass, neutral))
    return sample_evidence(of_answer[None, None], usual[None, None])


def named_samples(evidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """The fewest samples that hold `SHARE` of the evidence, rising; none if there is no evidence.

    evidence: of each sample, >= 0, [samples]; pointers have none.
    """
    if evidence.sum() <= 0:
        return np.zeros(0, np.int64)
    falling = np.argsort(-evidence, kind="stable")
    needed = int(np.searchsorted(np.cumsum(evidence[falling]), SHARE * evidence.sum())) + 1
    return np.sort(falling[:needed])


def time_ranges(evidence: NDArray[np.float32], span_s: NDArray[np.float64]) -> list[TimeRange]:
    """The times of `named_samples`, in order, those that touch or are one joined.

    Args:
        evidence: as of `named_samples`.
        span_s: the time that each stands for, as of `sample_spans`.
    """
    named = span_s[named_samples(evidence)]
    if not len(named):
        return []
    apart = np.flatnonzero(named[1:, 0] > named[:-1, 1])
    starts_s, stops_s = named[[0, *apart + 1], 0], named[[*apart, len(named) - 1], 1]
    return [
        TimeRange(start_s=float(start_s), stop_s=float(stop_s))
        for start_s, stop_s in zip(starts_s, stops_s, strict=True)
    ]


def sample_spans(
    time_s: NDArray[np.float64], source: NDArray[np.int32], end_s: float
) -> NDArray[np.float64]:
    """The time that each sample stands for, until the next stored one: pointers show the same.

    Half-open, [samples, 2]. Samples that show one frame of a slow video have one time, and end
    together.

    Args:
        time_s: when each sample is on screen, [samples]; the last one until `end_s`.
        source: the stored sample that stands for each, [samples].
    """
    stored_s = time_s[source == np.arange(len(source))]
    next_s = np.append(stored_s, end_s)
    return np.stack([time_s, next_s[np.searchsorted(stored_s, time_s, side="right")]], -1)


def end_of(time_s: NDArray[np.float64], following_s: NDArray[np.float64] | None = None) -> float:
    """Until when the last sample of a segment is on screen, given the next one's times; or 0."""
    if not len(time_s):
        return 0.0
    later_s = [] if following_s is None else following_s[following_s > time_s[-1]]
    return float(later_s[0]) if len(later_s) else float(time_s[-1]) + usual_gap_s(time_s)
