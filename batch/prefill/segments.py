"""Where a long video is cut so that each stretch fits the model's context. Pure numpy."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.models.family import Layout
from batch.prefill.plan import ROOM_FOR_ANSWER, Positions, fits
from batch.video import Footage
from cachefmt import Segment


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some samples of a video in a row, the first of them kept: what one cache is about."""

    segment: Segment
    samples: int

    @property
    def rows(self) -> slice:
        """Its rows in the manifest."""
        first = self.segment.first_sample
        return slice(first, first + self.samples)


SCENE_SHARE = 0.5
"""A scene begins where more than this share of the cells changed."""


def cut(
    manifest: Manifest, lay_out: Callable[[Footage], Layout], *, context: int, positions: Positions
) -> list[Stretch]:
    """Cut the samples of a video into segments, as few as fit.

    Both positions and tokens must fit: where a sample takes fewer positions than it has cells
    (M-RoPE), the model was trained on no more tokens than positions. A segment starts with a kept
    sample, so no pointer leaves it. Where a segment must end, it ends at the strongest change of
    scene in its second half, if there is one.

    Args:
        lay_out: the model family's layout of some samples.
        context: positions the decoder was trained for.
        positions: as in `make_plan`.

    Returns:
        In order, without gaps. One that cannot be cut further may still not fit; `make_plan`
        refuses it.
    """
    footage, kept = manifest.footage, manifest.kept
    edges = np.append(np.flatnonzero(kept), len(kept))

    def too_long(first: int, last: int) -> bool:
        samples = np.zeros(len(kept), bool)
        samples[edges[first] : edges[last]] = True
        if positions == "compact":
            samples &= kept
        layout = lay_out(footage.select(samples))
        enters = (layout.sample < 0) | kept[samples][layout.sample]
        return not fits(layout, context) or int(enters.sum()) + ROOM_FOR_ANSWER > context

    cuts, first, end = [0], 0, len(edges) - 1
    while first < end:
        # The first edge that is too far, then one back; a single sample always goes in.
        last = _first_true(partial(too_long, first), first + 2, end + 1) - 1
        if last < end:
            last = _scene_change(manifest, edges, first, last)
        cuts.append(last)
        first = last
    return [
        Stretch(
            segment=Segment(number=number, count=len(cuts) - 1, first_sample=int(edges[start])),
            samples=int(edges[stop] - edges[start]),
        )
        for number, (start, stop) in enumerate(pairwise(cuts))
    ]


def _first_true(is_far: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from `low` on that is far, `high` if none is; nothing is far before far.

    In steps that double, so that no more of a long video is laid out than twice what fits.
    """
    step = 1
    while low < high and not is_far(min(low + step, high) - 1):
        low, step = min(low + step, high), 2 * step
    return bisect_left(range(high), True, low, min(low + step, high), key=is_far)


def _scene_change(manifest: Manifest, edges: NDArray[np.int64], first: int, last: int) -> int:
    """The edge in the second half of [first, last] at which a new scene starts, else `last`."""
    half = np.arange(first + (last - first) // 2 + 1, last + 1)
    samples = edges[half]
    changed = 1 - manifest.signals.redundancy[samples] > SCENE_SHARE
    if not changed.any():
        return last
    difference = manifest.signals.difference[samples].mean(axis=1)
    return int(half[np.argmax(np.where(changed, difference, -1))])
