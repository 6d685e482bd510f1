"""Higher thresholds from stored signals: what they drop, and how far it may be from its source."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batch.analysis.raising import raise_thresholds
from batch.analysis.signals import Signals
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.settings import Reference

CELLS = 4
DEFAULT = TEMPORAL_PROFILES["default"]


def watched(values: NDArray[np.float64], reference: Reference) -> Signals:
    """Signals of cells that each show one value, [samples, cells], as an analysis finds them."""
    temporal = replace(DEFAULT, reference=reference)
    difference = np.zeros(values.shape, np.float32)
    source = np.zeros(len(values), np.int32)
    seen, still = values[0].copy(), 1
    for sample in range(1, len(values)):
        difference[sample] = np.abs(values[sample] - seen)
        static = temporal.is_static(np.zeros(CELLS, np.float32), difference[sample])
        redundant = temporal.is_redundant(float(static.mean()), difference[sample])
        still = still + 1 if redundant else 1
        is_kept = still <= temporal.still_samples
        source[sample] = sample if is_kept else source[sample - 1]
        if reference == "cells" and is_kept:
            seen[~static] = values[sample, ~static]
        if reference == "kept" and not redundant:
            seen = values[sample].copy()
    static = temporal.static_cells(np.zeros_like(difference), difference)
    return Signals(
        flow_px=np.zeros_like(difference),
        difference=difference,
        saliency=np.zeros_like(difference),
        static=static,
        redundancy=static.mean(axis=1, dtype=np.float32),
        source=source,
    )


def walks(samples: int = 24) -> st.SearchStrategy[NDArray[np.float64]]:
    """Cells that stand still, creep and jump."""
    steps = st.sampled_from([0.0, 0.0, 0.01, -0.02, 0.03, 0.05, -0.08, 0.2])
    rows = st.lists(st.lists(steps, min_size=CELLS, max_size=CELLS), min_size=2, max_size=samples)
    return rows.map(lambda drawn: np.cumsum(np.array(drawn), axis=0))


@pytest.mark.parametrize("reference", ["kept", "cells"])
@given(values=walks(), times=st.sampled_from([1.001, 1.5, 2.0, 4.0]))
@settings(deadline=None, max_examples=60)
def test_nothing_stands_for_what_is_further_away_than_thresholds_say(
    reference: Reference, values: NDArray[np.float64], times: float
) -> None:
    """Where nobody compared a sample with its source, the way there is no longer than its steps."""
    signals, temporal = watched(values, reference), replace(DEFAULT, reference=reference)
    found = raise_thresholds(signals, temporal, pointers=True, times=times)
    assert not (found.kept & ~signals.kept).any()
    held = values[0].copy()
    for sample, value in enumerate(values):
        if reference == "cells":
            changed = found.kept[sample] & ~found.static[sample]
            held[changed] = value[changed]
            stands = np.ones(CELLS, bool)
        else:
            held = values[found.source[sample]]
            stands = np.full(CELLS, not found.kept[sample])
        # What the analysis made a pointer has no picture: its own step is allowed on top.
        most = (times + 1) * temporal.difference_threshold
        assert (np.abs(value - held)[stands] <= most + 1e-6).all()


@pytest.mark.parametrize("reference", ["kept", "cells"])
@given(values=walks())
@settings(deadline=None, max_examples=30)
def test_thresholds_a_hair_higher_are_those_of_the_analysis(
    reference: Reference, values: NDArray[np.float64]
) -> None:
    signals, temporal = watched(values, reference), replace(DEFAULT, reference=reference)
    found = raise_thresholds(signals, temporal, pointers=True, times=1 + 1e-9)
    assert (found.static == signals.static).all()
    assert (found.source == signals.source).all()


def test_a_slow_change_is_seen_however_small_its_steps() -> None:
    values = np.arange(40)[:, None] * np.array([0.05, 0.0, 0.0, 0.0])
    found = raise_thresholds(
        watched(values, "cells"), replace(DEFAULT, reference="cells"), pointers=True, times=4.0
    )
    renewed = np.flatnonzero(~found.static[:, 0])
    assert np.diff(renewed).tolist() == [4] * (len(renewed) - 1)
    assert found.static[1:, 1:].all()
