"""Differential token drop: a patch that did not change since the previous sample goes."""

from dataclasses import dataclass

import numpy as np

from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TemporalSettings
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, best_first
from cachefmt.tiers import Tier

_AGAINST_PREVIOUS = TemporalSettings(reference="previous", still_threshold=2.0)
"""No difference reaches 2, so no flow is computed."""


@dataclass(frozen=True, kw_only=True)
class TokenDrop(CellMethod):
    """FP16 for cells that differ from the same cell of the previous sample, positions kept.

    The first sample stays whole. A budget is spent on the largest differences.

    Source: TimeChat-Online (arXiv 2504.17343), its pixel-level variant. Departures: root mean
    square instead of L1 difference, and our threshold, which lies above camera noise.
    """

    name = "token-drop"
    reads_signals = True

    temporal: TemporalSettings = _AGAINST_PREVIOUS

    def rank(self, manifest: Manifest, prices: Prices, budget: Budget | None) -> list[Ranking]:
        score = manifest.signals.difference.copy()
        score[0] = np.inf
        order = best_first(score)
        if budget is None:
            order = order[: int((score >= self.temporal.difference_threshold).sum())]
        return [Ranking(Tier.FP16, order)]
