"""Which slots enter the language model, where they stand and how they will be stored.

Pure numpy, so what the size of a cache rests on is known before any weight is loaded. How the rows
of a reused cell are made, batch/kv/reuse.py says.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.errors import ContextError
from batch.models.family import Layout
from batch.settings import Positions, Reuse
from batch.video import Footage
from batch.video.geometry import Geometry
from cachefmt.tiers import STORED_TIERS, Tier

REUSING = 4
"""Times as many samples in a block, at most, of which some cells are not computed."""
ROOM_FOR_ANSWER = 256
"""Positions kept free behind the prefix for the question and its answer."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The slots that are stored, in order of the prompt.

    Row i of every array is one token; what the layout dropped has no row.
    """

    token_ids: NDArray[np.int32]
    sample: NDArray[np.int32]
    """[tokens]; -1 is text outside samples."""
    cell: NDArray[np.int32]
    """[tokens]; -1 is text or a separator."""
    positions: NDArray[np.int32]
    """[tokens, axes]"""
    tier: NDArray[np.uint8]
    """[tokens], codes of Tier; never PRUNE."""
    multiplicity: NDArray[np.int32]
    """[tokens]; how many identical samples a cell stands for."""
    origin: NDArray[np.int32]
    """[tokens]; the row of which a reused one is made, its own of one that is computed."""
    source: NDArray[np.int32]
    """[samples] of the manifest, pointers included; the sample whose tokens stand for it."""
    slots: int
    """Slots of the whole layout, before anything was dropped."""
    numbering: Positions
    next_position: tuple[int, ...]

    @property
    def tokens(self) -> dict[Tier, int]:
        return {tier: int((self.tier == tier).sum()) for tier in STORED_TIERS}

    @property
    def is_computed(self) -> NDArray[np.bool_]:
        """[tokens]; the others do not enter the language model."""
        computed: NDArray[np.bool_] = self.origin == np.arange(len(self.origin))
        return computed

    @property
    def computed(self) -> int:
        """Tokens that enter the language model."""
        return int(self.is_computed.sum())

    def copies(self, block: slice) -> tuple[tuple[int, ...], NDArray[np.float32] | None]:
        """What multiplicity adds to the scores inside a block: stops and bias of a `kv.Block`.

        The copies that a pointer stands for come after its target, so tokens of later samples
        see them and the target's own tokens do not.
        """
        turn, multiplicity = self._turn[block], self.multiplicity[block]
        counted = np.flatnonzero(multiplicity > 1)
        if not len(counted):
            return (), None
        # A piece ends with each turn in which something counts more than once.
        ends = np.searchsorted(turn, np.unique(turn[counted]), side="right")
        stops = np.union1d(ends, len(turn))
        return tuple(map(int, stops)), np.log(multiplicity).astype(np.float32)

    def blocks(self, samples: int) -> Iterator[slice]:
        """Cut the rows into blocks of so many stored samples, never inside a sample.

        Where rows are reused, a block has more samples, `REUSING` times as many at most: until it
        computes as much as so many would, of which all is computed.
        """
        stored = np.unique(self.sample[self.sample >= 0])
        starts = np.searchsorted(self._turn, 2 * stored)
        rows = np.diff(starts, append=len(self.sample)).tolist()
        computed = np.add.reduceat(self.is_computed, starts).tolist() if len(starts) else []
        is_all = self.computed == len(self.origin)
        most_samples, most = (
            (samples, math.inf) if is_all else (REUSING * samples, samples * max(rows))
        )
        edges, held, work = [0], 0, 0
        for start, own in zip(starts.tolist(), computed, strict=True):
            if held == most_samples or (held and work + own > most):
                edges.append(start)
                held, work = 0, 0
            held, work = held + 1, work + own
        for first, last in pairwise([*edges, len(self.sample)]):
            yield slice(first, last)

    @property
    def _turn(self) -> NDArray[np.int32]:
        """Never falling [tokens]: 2s in sample s, 2s + 1 in text behind it that is no sample's."""
        return 2 * np.maximum.accumulate(self.sample) + (self.sample < 0)


def make_plan(
    manifest: Manifest,
    lay_out: Callable[[Footage], Layout],
    *,
    context: int,
    positions: Positions = "compact",
    reuse: Reuse = "samples",
) -> Plan:
    """Drop from the prefix what the manifest prunes, and unless cells are reused its pointers.

    A pointer sample loses all its slots then, its separators too; else its cells have the tiers of
    its source, and all are reused. Text is computed, and stored as FP16.

    Args:
        lay_out: the model family's layout of some samples.
        context: positions the decoder was trained for.
        positions, reuse: as of `CacheSettings`; inside a sample every cell keeps its place.

    Raises:
        ContextError: the positions do not fit the model's context.
    """
    stays, tiers = has_tokens(manifest, reuse), tiers_of(manifest, reuse)
    layout = whole = lay_out(manifest.footage)
    if positions == "compact" and not stays.all():
        layout = _without_gaps(manifest, lay_out)
    sample = layout.sample
    is_cell = layout.cell >= 0
    tier = np.full(len(sample), Tier.FP16, np.uint8)
    tier[is_cell] = tiers[sample[is_cell], layout.cell[is_cell]]
    entering = ((sample < 0) | stays[sample]) & (tier != Tier.PRUNE)
    multiplicity = np.ones(len(sample), np.int32)
    if reuse == "samples":
        multiplicity[is_cell] = manifest.multiplicity[sample[is_cell]]
    _check_fits(manifest, layout, context, positions, reuse)
    sample, cell = sample[entering], layout.cell[entering]
    return Plan(
        token_ids=layout.token_ids[entering],
        sample=sample,
        cell=cell,
        positions=layout.positions[entering],
        tier=tier[entering],
        multiplicity=multiplicity[entering],
        origin=_origins(manifest, sample, cell) if reuse == "cells" else _themselves(sample),
        source=_themselves(stays) if reuse == "cells" else manifest.source,
        slots=len(whole.sample),
        numbering=positions,
        next_position=layout.next_position,
    )


def has_tokens(manifest: Manifest, reuse: Reuse) -> NDArray[np.bool_]:
    """Which samples have tokens, bool [samples]."""
    return np.ones_like(manifest.kept) if reuse == "cells" else manifest.kept


def tiers_of(manifest: Manifest, reuse: Reuse) -> NDArray[np.uint8]:
    """Tiers of all cells, [samples, cells]; a pointer whose cells are reused has its source's."""
    if reuse != "cells":
        return manifest.tier
    last_kept = np.where(manifest.kept, _themselves(manifest.kept), 0)
    return manifest.tier[np.maximum.accumulate(last_kept)]


def sources_of(manifest: Manifest) -> NDArray[np.int32]:
    """The sample in which what each stored cell shows was computed last, [samples, cells].

    That is the sample itself where the cell or one beside it changed: a vision tower lets cells see
    each other, those next to it most. Another static cell goes back to the last one of its
    place that was computed, whatever sample it was compared with: how far what both show may be
    apart, the analysis decides (`TemporalSettings.reference`). -1: the cell is not stored.

    Where a budget raises thresholds, cells beside those that changed are the first to go.

    Source: 116 questions about 8 films to a model with real eyes: cells beside those that changed
    computed too, 0.495 of the slots and 1.000 of the right answers; without them 0.429 and 0.929.
    """
    signals, tiers = manifest.signals, tiers_of(manifest, "cells")
    source = np.full(tiers.shape, -1, np.int32)
    latest = np.full(tiers.shape[1], -1, np.int32)
    for sample, stored in enumerate(tiers != Tier.PRUNE):
        if signals.kept[sample]:  # others have no picture, and nothing to compute
            changed = ~signals.static[sample]
            if manifest.threshold_scale == 1:
                changed = _with_neighbours(changed, manifest.geometry)
            latest[changed] = -1
            latest[stored & (latest < 0)] = sample
        source[sample] = np.where(stored, latest, -1)
    return source


def _with_neighbours(changed: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """Also the eight cells around each, [cells]."""
    grid = np.pad(changed.reshape(geometry.rows, geometry.columns), 1)
    around = np.lib.stride_tricks.sliding_window_view(grid, (3, 3)).any((2, 3))
    return around.reshape(-1)


def _origins(
    manifest: Manifest, sample: NDArray[np.int32], cell: NDArray[np.int32]
) -> NDArray[np.int32]:
    """The row of which each is made, [tokens]."""
    origin, is_cell = _themselves(sample), np.flatnonzero(cell >= 0)
    source = sources_of(manifest)
    row_of = np.zeros_like(source)
    row_of[sample[is_cell], cell[is_cell]] = is_cell
    shown = source[sample[is_cell], cell[is_cell]]
    origin[is_cell] = row_of[shown, cell[is_cell]]
    return origin


def _themselves(rows: NDArray[Any]) -> NDArray[np.int32]:
    return np.arange(len(rows), dtype=np.int32)


def _without_gaps(manifest: Manifest, lay_out: Callable[[Footage], Layout]) -> Layout:
    """The layout of the kept samples alone, which have their numbers among all."""
    layout = lay_out(manifest.footage.select(manifest.kept))
    numbers = np.flatnonzero(manifest.kept).astype(np.int32)
    sample = np.where(layout.sample >= 0, numbers[layout.sample], -1).astype(np.int32)
    return replace(layout, sample=sample)


def fits(layout: Layout, context: int) -> bool:
    """Whether a prefix leaves room for a question and its answer."""
    return _positions(layout) + ROOM_FOR_ANSWER <= context


def _positions(layout: Layout) -> int:
    return max(int(layout.positions.max()) + 1, *layout.next_position)


def _check_fits(
    manifest: Manifest, layout: Layout, context: int, positions: Positions, reuse: Reuse
) -> None:
    if fits(layout, context):
        return
    name, kept = manifest.video.name, int(has_tokens(manifest, reuse).sum())
    what = f"{kept} kept samples" if kept > 1 else f"the sample at {manifest.pts_s[0]:.1f} s"
    rest = ". Close the gaps of its pointers (--positions compact)"
    raise ContextError(
        f"{name}: {_positions(layout)} positions ({positions}) of {what} and "
        f"{ROOM_FOR_ANSWER} for question and answer do not fit the model's context of {context}"
        f"{rest if positions == 'original' else ''}."
    )
