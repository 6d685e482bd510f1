"""Chosen samples of a video as a prefix of their own: rows read, moved together, kept in memory.

Cells stand as the model's own layout of the chosen samples has them. Text takes as many positions
as are stored of it: a time may be written in more tokens than the layout's, and what stands before
the first sample of a segment belongs to no sample.

What a sample's keys and values hold of samples before it stays as it was when they were computed;
the first samples of a segment hold nothing of the segments before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.evidence import usual_gap_s
from batch.answering.samples import Piece, StoredSample, StoredVideo
from batch.kv import Prefix
from batch.kv.rotation import rotate, rotation_of, unrotate
from batch.models import Family
from batch.models.family import Layout
from batch.video import Footage, Geometry
from cachefmt import Tier, token_counts

_LEFT_OUT, _FOREIGN = -2, -3
_CHUNK_ROWS = 512
"""Rows of a layer that are read and turned together: fewer take longer, more take memory.

Source: 3,939 rows in 180 pieces, demo model, one thread: 1, 256, 512
rows and all take 340, 130, 118, 117 ms of CPU time and at most 5.8, 6.3, 7.2, 16.6 MB.
"""


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Rows of chosen samples and where they will stand; of their keys and values nothing yet."""

    pieces: tuple[Piece, ...]
    stays: NDArray[np.bool_]
    """Which rows of the pieces are needed."""
    old: NDArray[np.int64]
    """Positions [needed rows, axes] in the file."""
    new: NDArray[np.int64]
    """Positions [needed rows, axes] from now on."""
    next_position: tuple[int, ...]
    number: NDArray[np.int64]
    """[needed rows]: which of the chosen samples each is of; -1 is text outside."""
    cell: NDArray[np.int64]
    """[needed rows]; -1 is text."""
    multiplicity: NDArray[np.int64]

    @property
    def end(self) -> int:
        """Positions that are taken before the question."""
        return max(int(self.new.max(initial=-1)) + 1, *self.next_position)

    def chunks(self) -> Iterator[tuple[list[Piece], Tensor, slice]]:
        """Some pieces at a time, which of their rows are needed, and which of all needed these are.

        Together they have `_CHUNK_ROWS` or more, but not twice as many; the last ones any number.
        """
        parts = [
            piece._replace(start=start, stop=min(start + _CHUNK_ROWS, piece.stop))
            for piece in self.pieces
            for start in range(piece.start, piece.stop, _CHUNK_ROWS)
        ]
        chunk: list[Piece] = []
        rows = read = taken = 0
        for part in parts:
            chunk.append(part)
            rows += part.stop - part.start
            if rows >= _CHUNK_ROWS or part is parts[-1]:
                stays = torch.from_numpy(self.stays[read : read + rows])
                stop = taken + int(stays.sum())
                yield chunk, stays, slice(taken, stop)
                chunk, rows, read, taken = [], 0, read + rows, stop

    def segment_of(self, row: int) -> int:
        """The segment that a needed row is stored in."""
        ends = np.cumsum([piece.stop - piece.start for piece in self.pieces])
        place = np.flatnonzero(self.stays)[row]
        return self.pieces[int(np.searchsorted(ends, place, side="right"))].segment


def lay_out(video: StoredVideo, chosen: Sequence[StoredSample], family: Family) -> Layout:
    """The model's layout of chosen samples, as if there were no others.

    Times are those of the samples, in the whole video if its first segment is there; where a
    sample has several frames, all are taken at the first.
    """
    index = np.array(video.numbers(chosen))
    time_s = np.concatenate([one.time_s for one in video.indices])
    pts_s = video.times_s(chosen)
    gap_s = usual_gap_s(time_s)
    shape = video.segments[0].header.shape
    frames = family.geometry.frames
    return family.layout(
        Footage(
            geometry=Geometry(
                height_px=shape.rows,
                width_px=shape.columns,
                rows=shape.rows,
                columns=shape.columns,
                frames=frames,
            ),
            start_s=float(time_s[0]),
            index=index - index[0],
            pts_s=pts_s,
            last_pts_s=pts_s,
            interval_s=gap_s / frames,
            duration_s=float(pts_s[-1] - pts_s[0]) + gap_s,
        )
    )


def arrange(video: StoredVideo, chosen: Sequence[StoredSample], family: Family) -> Arranged:
    """Put samples chosen in order where `lay_out` has them, with the text around the video."""
    pieces = [video.text_before, *video.pieces(chosen)]
    if video.stored[-1] not in chosen:
        pieces.append(video.text_behind)
    pieces = [piece for piece in pieces if piece.start < piece.stop]
    columns = [_tokens(video, chosen, piece) for piece in pieces]
    old, number, cell, multiplicity = (
        np.concatenate(parts) for parts in zip(*columns, strict=True)
    )
    stays = number != _LEFT_OUT
    new, next_position = _place(lay_out(video, chosen, family), number[stays], cell[stays])
    return Arranged(
        pieces=tuple(pieces),
        stays=stays,
        old=old[stays],
        new=new,
        next_position=next_position,
        number=np.where(number < len(chosen), number, -1)[stays],
        cell=cell[stays],
        multiplicity=multiplicity[stays],
    )


def arrange_text(video: StoredVideo) -> Arranged:
    """The text before all samples alone, where it stands."""
    old = video.table("position", video.text_before)
    none = np.full(len(old), -1)
    return Arranged(
        pieces=(video.text_before,),
        stays=np.ones(len(old), bool),
        old=old,
        new=old,
        next_position=tuple(map(int, old.max(0, initial=-1) + 1)),
        number=none,
        cell=none,
        multiplicity=np.ones(len(old), np.int64),
    )


def load(video: StoredVideo, rows: Arranged, family: Family) -> Prefix:
    """Read the rows, turn their keys to the new positions, and keep them.

    All are in the FP16 tier: encoding them again would lose more, and they are few. Only some
    rows of a layer are expanded at a time.
    """
    tokens = token_counts({Tier.FP16: len(rows.old)})
    shape = replace(video.segments[0].header.shape, tokens=tokens)
    prefix = Prefix.allocate(shape, family.layer_devices)
    for pieces, stays, taken in rows.chunks():
        positions = (rows.old[taken], rows.new[taken])
        there, here = (rotation_of(family.language_model, torch.from_numpy(at)) for at in positions)
        for layer, device in enumerate(family.layer_devices):
            key, value = (
                torch.cat([video.states(layer, kind, piece) for piece in pieces])[stays].to(device)
                for kind in ("key", "value")
            )
            moved = rotate(unrotate(key, there.to(device)), here.to(device))
            states = (moved.to(prefix.raw_dtype), value.to(prefix.raw_dtype))
            try:
                prefix.append(layer, Tier.FP16, *states)
            except ValueError as error:
                is_bad = ~torch.cat(states, -1).isfinite().flatten(1).all(1)
                segment = rows.segment_of(taken.start + int(is_bad.int().argmax()))
                raise video.unusable(segment, f"layer {layer}: {error}") from error
    prefix.set_multiplicity(Tier.FP16, torch.from_numpy(rows.multiplicity))
    return prefix


def _tokens(
    video: StoredVideo, chosen: Sequence[StoredSample], piece: Piece
) -> tuple[NDArray[np.int64], ...]:
    """What the token tables have of a piece: position, number, cell, multiplicity.

    The number is that of the row's sample among the chosen, -1 before and their count behind all.
    """
    numbers = {
        int(video.indices[segment].stored[place]): number
        for number, (segment, place) in enumerate(chosen)
        if segment == piece.segment
    }
    if piece == video.text_before:
        numbers[-1] = -1
    else:
        numbers[-1] = len(chosen) if piece.segment == len(video.segments) - 1 else _LEFT_OUT
    sample, cell = video.table("sample", piece), video.table("cell", piece)
    position, multiplicity = video.table("position", piece), video.table("multiplicity", piece)
    number = np.array([numbers.get(int(one), _FOREIGN) for one in sample])
    shape = video.segments[piece.segment].header.shape
    is_wrong = (number == _FOREIGN) | (cell >= shape.rows * shape.columns) | (multiplicity < 1)
    is_wrong |= (position < 0).any(-1) | (cell < -1) | ((cell >= 0) & (sample < 0))
    if is_wrong.any():
        row = piece.start + int(is_wrong.argmax())
        raise video.unusable(
            piece.segment, f"row {row} of tier {piece.tier.name} does not belong to its sample"
        )
    return position, number, cell, multiplicity


def _place(
    layout: Layout, number: NDArray[np.int64], cell: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Give rows their positions [rows, axes] by the layout of the chosen samples.

    And the question behind them its own. `number` is as of `_tokens`, `cell` -1 is text, which is
    in order within its sample.
    """
    samples = int(layout.sample.max()) + 1
    is_behind = (layout.sample < 0) & (np.maximum.accumulate(layout.sample) >= 0)
    group = np.where(is_behind, samples, layout.sample)
    there = layout.positions.astype(np.int64)
    positions = np.zeros((len(number), there.shape[1]), np.int64)
    shift = 0
    for sample in range(-1, samples + 1):
        slots, rows = np.flatnonzero(group == sample), np.flatnonzero(number == sample)
        cells = slots[layout.cell[slots] >= 0]
        before, behind = slots, slots[:0]  # text slots; without cells, before
        start = np.asarray(layout.next_position)
        if len(cells):
            before, behind = slots[slots < cells[0]], slots[slots > cells[-1]]
            start = there[cells[0]]
        if len(before):
            start = there[before[0]]
        texts = rows[cell[rows] < 0]
        split = max(0, len(texts) - len(behind))
        positions[texts[:split]] = start + shift + np.arange(split)[:, None]
        shift += split - len(before)
        is_cell = rows[cell[rows] >= 0]
        positions[is_cell] = there[cells[cell[is_cell]]] + shift
        if len(behind):
            left = np.arange(len(texts) - split)[:, None]
            positions[texts[split:]] = there[behind[0]] + shift + left
            shift += len(left) - len(behind)
    return positions, tuple(int(place) + shift for place in layout.next_position)
