"""Signals as if what changed were told by higher thresholds. Knows signals; knows no pictures.

A manifest holds what every cell differs by from its reference. Where higher thresholds make the
reference itself something that did not change, what stands for a cell is older, and nobody measured
how far it is. But a root mean square is a norm: the way from a sample to its source is no longer
than its steps together. This sum, `drift`, is what is judged here, so that a slow change counts,
however small its steps.
"""

from dataclasses import replace

import numpy as np

from batch.analysis.signals import Signals
from batch.analysis.temporal import TemporalSettings


def raise_thresholds(
    signals: Signals, settings: TemporalSettings, *, pointers: bool, times: float
) -> Signals:
    """What of these signals changes by thresholds of the difference so many times as high.

    A cell is static whose drift is below `difference_threshold`, a sample redundant as of
    `TemporalSettings`; both times as high. No sample is kept that was not: it has no picture. With
    the reference "previous" there is no drift, as there a slow change is never noticed.

    Args:
        pointers: whether a redundant sample becomes a pointer.
        times: above 1.
    """
    raised = replace(
        settings,
        difference_threshold=times * settings.difference_threshold,
        change_threshold=settings.change_threshold and times * settings.change_threshold,
    )
    static, source = np.zeros_like(signals.static), np.zeros_like(signals.source)
    way = np.zeros_like(signals.difference[0])  # from the source of each cell to its reference
    still = 0
    for sample, difference in enumerate(signals.difference):
        drift = way + difference
        static[sample] = (drift < raised.difference_threshold) & (sample > 0)
        was_kept = bool(signals.kept[sample])
        redundancy = float(static[sample].mean())
        is_pointer = pointers and (not was_kept or raised.is_redundant(redundancy, drift))
        still = still + 1 if sample and is_pointer else 1
        is_kept = was_kept and still <= settings.still_samples
        source[sample] = sample if is_kept else source[sample - 1]
        if settings.reference == "cells":
            moves, renews = was_kept & ~signals.static[sample], is_kept & ~static[sample]
        elif settings.reference == "kept":
            redundancy = float(signals.static[sample].mean())
            was_pointer = pointers and settings.is_redundant(redundancy, difference)
            moves, renews = np.array(not sample or not was_pointer), np.array(still == 1)
        else:
            continue
        way = np.where(renews, 0, way) + np.where(moves ^ renews, difference, 0)
    return replace(
        signals,
        static=static,
        redundancy=static.mean(axis=1, dtype=np.float32),
        source=source,
    )
