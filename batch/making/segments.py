"""Where a long video is cut so that each span fits the model's context. Pure numpy."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.analysis.signals import SCENE_SHARE, changed_shares
from batch.making.plan import ROOM_FOR_ANSWER, fits, has_tokens
from batch.models.family import Layout
from batch.settings import Positions, Reuse
from batch.video import Footage
from cachefmt import Segment


@dataclass(frozen=True, kw_only=True)
class Span:
    """Some samples of a video in a row: what one cache is about."""

    segment: Segment
    samples: int

    @property
    def rows(self) -> slice:
        first = self.segment.first_sample
        return slice(first, first + self.samples)


@dataclass(frozen=True, kw_only=True, order=True)
class _Way:
    """Segments from the start of the video to an edge; the least of all ways there is the best."""

    segments: int
    unchanged: float
    """Sum over borders of the share of cells that go on showing the same."""
    last_start: int
    """The edge at which the last of the segments begins."""


def cut(
    manifest: Manifest,
    lay_out: Callable[[Footage], Layout],
    *,
    context: int,
    positions: Positions,
    reuse: Reuse = "samples",
) -> list[Span]:
    """Cut the samples of a video into segments that fit.

    Both positions and tokens must fit: where a sample takes fewer positions than it has cells
    (M-RoPE), the model was trained on no more tokens than positions. A segment starts with a kept
    sample, so no pointer leaves it; where cells are reused, with any, as `Manifest.part` has its
    picture. It ends where a scene does; only a scene that is too long for one segment is cut
    within, where the segment is full. Of all ways to cut so it is the one with the fewest segments,
    then the one whose borders are where most changes.

    Arguments as of `make_plan`, which refuses a span that cannot be cut further and does not fit.

    Returns:
        In order, without gaps.
    """
    footage, stays = manifest.footage, has_tokens(manifest, reuse)
    edges = np.append(np.flatnonzero(stays), len(stays))

    def too_long(first: int, last: int) -> bool:
        samples = np.zeros(len(stays), bool)
        samples[edges[first] : edges[last]] = True
        if positions == "compact":
            samples &= stays
        layout = lay_out(footage.select(samples))
        enters = (layout.sample < 0) | stays[samples][layout.sample]
        return not fits(layout, context) or int(enters.sum()) + ROOM_FOR_ANSWER > context

    changed = np.zeros(len(stays), np.float32)
    changed[manifest.kept] = changed_shares(manifest.signals)
    cuts = _best_cuts(np.append(changed[stays], np.float32(1)), too_long)
    return [
        Span(
            segment=Segment(number=number, count=len(cuts) - 1, first_sample=int(edges[start])),
            samples=int(edges[stop] - edges[start]),
        )
        for number, (start, stop) in enumerate(pairwise(cuts))
    ]


def _best_cuts(changed: NDArray[np.float32], too_long: Callable[[int, int], bool]) -> list[int]:
    """The edges between segments, first and last included.

    Args:
        changed: share of cells that change at each edge; at the last, the video's end, all.
        too_long: whether what lies between two edges does not fit; if it does not, then neither
            does anything that holds it.
    """
    end, reach = len(changed) - 1, 0
    ways = {0: _Way(segments=0, unchanged=0.0, last_start=0)}
    for first in range(end):
        further = range(first + 1, reach + 1)
        # From further on as much is in reach, so a way that leads less far must be better.
        if first not in ways or any(ways[edge] <= ways[first] for edge in further if edge in ways):
            continue
        # The first edge that is too far, then one back; a single sample always goes in.
        reach = _first_true(partial(too_long, first), max(first + 2, reach + 1), end + 1) - 1
        scenes = first + 1 + np.flatnonzero(changed[first + 1 : reach + 1] > SCENE_SHARE)
        for last in map(int, scenes if len(scenes) else [reach]):
            way = _Way(
                segments=ways[first].segments + 1,
                unchanged=ways[first].unchanged + 1 - float(changed[last]),
                last_start=first,
            )
            ways[last] = min(way, ways.get(last, way))
    cuts = [end]
    while cuts[-1]:
        cuts.append(ways[cuts[-1]].last_start)
    return cuts[::-1]


def _first_true(is_far: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from `low` on that is far, `high` if none is; nothing is far before far.

    In steps that double, so that no more of a long video is laid out than twice what fits.
    """
    step = 1
    while low < high and not is_far(min(low + step, high) - 1):
        low, step = min(low + step, high), 2 * step
    return bisect_left(range(high), True, low, min(low + step, high), key=is_far)
