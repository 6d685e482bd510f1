"""Which slots enter the language model, where they stand and how they will be stored.

Pure numpy, so the exact size of a cache is known before any weight is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.errors import ContextError
from batch.models.family import Layout
from batch.settings import Pointers, Positions
from batch.video import Footage
from cachefmt.tiers import STORED_TIERS, Tier

ROOM_FOR_ANSWER = 256
"""Positions kept free behind the prefix for the question and its answer."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The slots that enter the language model, in order of the prompt.

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
    samples: int
    """Of the manifest, pointers included."""
    stored_samples: int
    slots: int
    """Slots of the whole layout, before anything was dropped."""
    numbering: Positions
    next_position: tuple[int, ...]

    @property
    def tokens(self) -> dict[Tier, int]:
        return {tier: int((self.tier == tier).sum()) for tier in STORED_TIERS}

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
        """Cut the rows into blocks of so many stored samples, never inside a sample."""
        stored = np.unique(self.sample[self.sample >= 0])
        starts = np.searchsorted(self._turn, 2 * stored[samples::samples])
        edges = [0, *(int(start) for start in starts), len(self.sample)]
        for first, last in pairwise(edges):
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
    pointers: Pointers = "multiplicity",
) -> Plan:
    """Drop from the prefix what the manifest prunes or points elsewhere.

    A pointer sample loses all its slots, its separators too. Text is stored as FP16.

    Args:
        lay_out: the model family's layout of some samples.
        context: positions the decoder was trained for.
        positions, pointers: as of `CacheSettings`; inside a sample every cell keeps its place.

    Raises:
        ContextError: the positions do not fit the model's context.
    """
    kept = manifest.kept
    layout = whole = lay_out(manifest.footage)
    if positions == "compact" and not kept.all():
        layout = _without_gaps(manifest, lay_out)
    sample = layout.sample
    is_cell = layout.cell >= 0
    tier = np.full(len(sample), Tier.FP16, np.uint8)
    tier[is_cell] = manifest.tier[sample[is_cell], layout.cell[is_cell]]
    entering = ((sample < 0) | kept[sample]) & (tier != Tier.PRUNE)
    multiplicity = np.ones(len(sample), np.int32)
    if pointers == "multiplicity":
        multiplicity[is_cell] = manifest.multiplicity[sample[is_cell]]
    _check_fits(manifest, layout, context, positions)
    return Plan(
        token_ids=layout.token_ids[entering],
        sample=sample[entering],
        cell=layout.cell[entering],
        positions=layout.positions[entering],
        tier=tier[entering],
        multiplicity=multiplicity[entering],
        samples=len(kept),
        stored_samples=int(kept.sum()),
        slots=len(whole.sample),
        numbering=positions,
        next_position=layout.next_position,
    )


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


def _check_fits(manifest: Manifest, layout: Layout, context: int, positions: Positions) -> None:
    if fits(layout, context):
        return
    name, kept = manifest.video.name, int(manifest.kept.sum())
    what = f"{kept} kept samples" if kept > 1 else f"the sample at {manifest.pts_s[0]:.1f} s"
    rest = ". Close the gaps of its pointers (--positions compact)"
    raise ContextError(
        f"{name}: {_positions(layout)} positions ({positions}) of {what} and "
        f"{ROOM_FOR_ANSWER} for question and answer do not fit the model's context of {context}"
        f"{rest if positions == 'original' else ''}."
    )
