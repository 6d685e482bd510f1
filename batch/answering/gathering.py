"""Chosen samples of a video as a prefix of their own: rows read, moved together, kept in memory.

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
from batch.answering.moving import Placed, place
from batch.answering.rows import Chosen, Piece, RowReader, pieces_of, text_before
from batch.kv import Prefix
from batch.kv.rotation import rotate, turn_of, unrotate
from batch.models import Family
from batch.models.family import Layout
from batch.video import Footage, Geometry
from cachefmt import CacheFile, SampleIndex, Tier, token_counts

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
    new: Placed
    number: NDArray[np.int64]
    """[needed rows]: which of the chosen samples each is of; -1 is text outside."""
    cell: NDArray[np.int64]
    """[needed rows]; -1 is text."""
    multiplicity: NDArray[np.int64]

    @property
    def end(self) -> int:
        """Positions that are taken before the question."""
        return max(int(self.new.positions.max(initial=-1)) + 1, *self.new.next_position)

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


def lay_out(
    segments: Sequence[CacheFile],
    indices: Sequence[SampleIndex],
    chosen: Sequence[Chosen],
    family: Family,
) -> Layout:
    """The model's layout of chosen samples, as if there were no others.

    Times are those of the samples, in the whole video if its first segment is there; where a
    sample has several frames, all are taken at the first.
    """
    firsts = [cache.header.segment.first_sample for cache in segments]
    index = np.array([firsts[s] + indices[s].stored[place] for s, place in chosen])
    time_s = np.concatenate([one.time_s for one in indices])
    pts_s = np.array([indices[s].time_s[indices[s].stored[place]] for s, place in chosen])
    gap_s = usual_gap_s(time_s)
    shape = segments[0].header.shape
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


def arrange(
    reader: RowReader,
    indices: Sequence[SampleIndex],
    chosen: Sequence[Chosen],
    behind: Piece,
    layout: Layout,
) -> Arranged:
    """Put chosen samples where `layout` has them, with the text before and behind the video.

    Args:
        chosen: in order of time, at least one.
        behind: the text behind all samples.
        layout: as of `lay_out`.

    Raises:
        CacheFileError: the token tables contradict the index.
    """
    last = Chosen(len(indices) - 1, len(indices[-1].stored) - 1)
    pieces = [text_before(indices), *pieces_of(indices, chosen)]
    if last not in chosen:
        pieces.append(behind)
    pieces = [piece for piece in pieces if piece.start < piece.stop]
    columns = [_tokens(reader, indices, chosen, piece) for piece in pieces]
    old, number, cell, multiplicity = (
        np.concatenate(parts) for parts in zip(*columns, strict=True)
    )
    stays = number != _LEFT_OUT
    return Arranged(
        pieces=tuple(pieces),
        stays=stays,
        old=old[stays],
        new=place(layout, number[stays], cell[stays]),
        number=np.where(number < len(chosen), number, -1)[stays],
        cell=cell[stays],
        multiplicity=multiplicity[stays],
    )


def arrange_text(reader: RowReader, indices: Sequence[SampleIndex]) -> Arranged:
    """The text before all samples alone, where it stands."""
    piece = text_before(indices)
    old = reader.table("position", piece)
    return Arranged(
        pieces=(piece,),
        stays=np.ones(len(old), bool),
        old=old,
        new=Placed(positions=old, next_position=tuple(map(int, old.max(0, initial=-1) + 1))),
        number=np.full(len(old), -1),
        cell=np.full(len(old), -1),
        multiplicity=np.ones(len(old), np.int64),
    )


def load(reader: RowReader, rows: Arranged, family: Family) -> Prefix:
    """Read the rows, turn their keys to the new positions, and keep them.

    All are in the FP16 tier: encoding them again would lose more, and they are few. Only some
    rows of a layer are expanded at a time.

    Raises:
        CacheFileError: they hold no numbers.
        ModelError: the model's keys cannot be moved.
    """
    shape = replace(
        reader.segments[0].header.shape,
        tokens=token_counts({Tier.FP16: len(rows.old)}),
    )
    prefix = Prefix.allocate(shape, family.layer_devices)
    for pieces, stays, taken in rows.chunks():
        positions = (rows.old[taken], rows.new.positions[taken])
        there, here = (turn_of(family.language_model, torch.from_numpy(at)) for at in positions)
        for layer, device in enumerate(family.layer_devices):
            key, value = (
                torch.cat([reader.states(layer, kind, piece) for piece in pieces])[stays].to(device)
                for kind in ("key", "value")
            )
            moved = rotate(unrotate(key, there.to(device)), here.to(device))
            states = (moved.to(prefix.raw_dtype), value.to(prefix.raw_dtype))
            try:
                prefix.append(layer, Tier.FP16, *states)
            except ValueError as error:
                is_bad = ~torch.cat(states, -1).isfinite().flatten(1).all(1)
                segment = rows.segment_of(taken.start + int(is_bad.int().argmax()))
                raise reader.refuse(segment, f"layer {layer}: {error}") from error
    prefix.set_multiplicity(Tier.FP16, torch.from_numpy(rows.multiplicity))
    return prefix


def _tokens(
    reader: RowReader, indices: Sequence[SampleIndex], chosen: Sequence[Chosen], piece: Piece
) -> tuple[NDArray[np.int64], ...]:
    """What the token tables say of a piece: position, number, cell, multiplicity.

    The number is that of the row's sample among the chosen, -1 before and their count behind all.
    """
    numbers = {
        int(indices[segment].stored[at]): number
        for number, (segment, at) in enumerate(chosen)
        if segment == piece.segment
    }
    if piece == text_before(indices):
        numbers[-1] = -1
    else:
        numbers[-1] = len(chosen) if piece.segment == len(indices) - 1 else _LEFT_OUT
    sample, cell = reader.table("sample", piece), reader.table("cell", piece)
    position, multiplicity = reader.table("position", piece), reader.table("multiplicity", piece)
    number = np.array([numbers.get(int(one), _FOREIGN) for one in sample])
    shape = reader.segments[piece.segment].header.shape
    is_wrong = (number == _FOREIGN) | (cell >= shape.rows * shape.columns) | (multiplicity < 1)
    is_wrong |= (position < 0).any(-1) | (cell < -1) | ((cell >= 0) & (sample < 0))
    if is_wrong.any():
        row = piece.start + int(is_wrong.argmax())
        raise reader.refuse(
            piece.segment, f"row {row} of tier {piece.tier.name} does not belong to its sample"
        )
    return position, number, cell, multiplicity
