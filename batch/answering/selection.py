"""Which of a video's samples a question needs. Pure numpy; knows no model and no file's bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Self

import numpy as np
from numpy.typing import NDArray

from batch.answering.evidence import end_of, stretches
from batch.answering.rows import Chosen
from cachefmt import CacheFile, SampleIndex


def fewest(scores: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """The fewest samples that hold a share of what a question is about, the best first.

    A sample counts with what its score has above the median; of samples that differ in nothing,
    all are needed, and where none stores a cell, the text of all.

    Args:
        scores: of all stored samples, as of `sample_scores`.
        share: 0..1.
    """
    has_cells = np.isfinite(scores)
    order = np.argsort(-scores, kind="stable")
    if not has_cells.any():
        return order
    order = order[: int(has_cells.sum())]
    held = np.cumsum(np.maximum(scores[order] - np.median(scores[order]), 0))
    if held[-1] <= 0:
        return order
    return order[: int(np.searchsorted(held, share * held[-1])) + 1]


@dataclass(frozen=True, kw_only=True)
class StoredSamples:
    """The stored samples of all segments as one."""

    stored: list[Chosen]
    tokens: NDArray[np.int64]
    """Rows of each, [stored]."""
    firsts: list[int]
    """The sample of the video that is sample 0 of each segment."""
    ends_s: list[float]
    """Until when the last sample of each segment is on screen."""
    indices: list[SampleIndex]

    @classmethod
    def of(
        cls, segments: Sequence[CacheFile], indices: list[SampleIndex], end_s: float | None
    ) -> Self:
        """Those of the segments of a video, in order, and their indices.

        Args:
            end_s: until when the last one is on screen; None: as long as others usually are.
        """
        times = [index.time_s for index in indices]
        ends_s = [end_of(*pair) for pair in zip_longest(times, times[1:])]
        return cls(
            stored=[
                Chosen(number, place)
                for number, index in enumerate(indices)
                for place in range(len(index.stored))
            ],
            tokens=np.concatenate([index.tokens for index in indices]),
            firsts=[segment.header.segment.first_sample for segment in segments],
            ends_s=ends_s if end_s is None else [*ends_s[:-1], end_s],
            indices=indices,
        )

    def numbers(self, chosen: Sequence[Chosen]) -> list[int]:
        """Which samples of the video these are."""
        return [self.firsts[s] + int(self.indices[s].stored[place]) for s, place in chosen]

    def stretch_s(self, chosen: Sequence[Chosen]) -> NDArray[np.float64]:
        """The times that these stand for, [chosen, 2]."""
        of_segment = {
            s: stretches(self.indices[s].time_s, self.indices[s].source, self.ends_s[s])
            for s in {s for s, _ in chosen}
        }
        return np.stack([of_segment[s][self.indices[s].stored[place]] for s, place in chosen])
