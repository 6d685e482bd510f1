"""Chosen samples of a video as a prefix of their own: rows read, moved together, kept in memory.

Cells stand as the model's own layout of the chosen samples has them. Text takes as many positions
as are stored of it: a time may be written in more tokens than the layout's, and what stands before
the first sample of a segment belongs to no sample.

What a sample's keys and values hold of samples before it stays as it was when they were computed;
the first samples of a segment hold nothing of the segments before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from batch.answering.samples import Piece, StoredSample, StoredVideo
from batch.kv import Prefix
from batch.kv.rotation import Rotation, rotate
from batch.models import Family
from batch.models.family import Layout
from batch.video import Footage, Geometry, usual_gap_s
from cachefmt import Tier, token_counts

_LEFT_OUT = -2


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Rows of chosen samples and where they will stand; of their keys and values nothing yet."""

    pieces: tuple[Piece, ...]
    stays: NDArray[np.bool_]
    """Which rows of the pieces are needed."""
    positions: NDArray[np.int64]
    """[needed rows, axes]"""
    next_position: tuple[int, ...]
    number: NDArray[np.int64]
    """[needed rows]: which of the chosen samples each is of; -1 is text outside."""
    multiplicity: NDArray[np.int64]

    @property
    def end(self) -> int:
        """Positions that are taken before the question."""
        return max(int(self.positions.max(initial=-1)) + 1, *self.next_position)


def lay_out(video: StoredVideo, chosen: Sequence[StoredSample], family: Family) -> Layout:
    """The model's layout of chosen samples, as if there were no others.

    Times are those of the samples, in the whole video if its first segment is there; where a
    sample has several frames, all are taken at the first.
    """
    index = np.array(video.numbers(chosen))
    time_s = np.concatenate([tables.time_s for tables in video.tables])
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
    number = np.concatenate([_numbers(video, chosen, piece) for piece in pieces])
    stays = number != _LEFT_OUT
    columns = [_columns(video, piece) for piece in pieces]
    cell, multiplicity = (np.concatenate(parts)[stays] for parts in zip(*columns, strict=True))
    positions, next_position = _place(lay_out(video, chosen, family), number[stays], cell)
    return Arranged(
        pieces=tuple(pieces),
        stays=stays,
        positions=positions,
        next_position=next_position,
        number=np.where(number < len(chosen), number, -1)[stays],
        multiplicity=multiplicity,
    )


def arrange_text(video: StoredVideo) -> Arranged:
    """The text before all samples alone, where it stands."""
    rows = slice(video.text_before.start, video.text_before.stop)
    positions = video.tables[0].position[rows].astype(np.int64)
    return Arranged(
        pieces=(video.text_before,),
        stays=np.ones(len(positions), bool),
        positions=positions,
        next_position=tuple(map(int, positions.max(0, initial=-1) + 1)),
        number=np.full(len(positions), -1),
        multiplicity=np.ones(len(positions), np.int64),
    )


def load(video: StoredVideo, rows: Arranged, family: Family) -> Prefix:
    """Decode the blocks that hold the rows, turn keys to their new positions, and keep the rows.

    All are in the FP16 tier: encoding them again would lose more, and they are few. A group of
    layers comes after the other, so that few decoded blocks are needed at a time.

    Raises:
        CacheFileError: names the block that is damaged.
    """
    tokens = token_counts({Tier.FP16: len(rows.positions)})
    shape = replace(video.segments[0].header.shape, tokens=tokens)
    prefix = Prefix.allocate(shape, family.layer_devices)
    cos, sin = family.rotation(torch.from_numpy(rows.positions))
    wanted = _wanted(video, rows)
    for layers in video.groups:
        start = 0
        for segment, number, picked in wanted:
            group, within = video.group_of(segment, layers)
            states = video.states(segment, number, group)[:, within][torch.from_numpy(picked)]
            stop = start + len(picked)
            rotation = Rotation(cos=cos[start:stop], sin=sin[start:stop]).to(states.device)
            keys = states[:, :, 0]
            keys.copy_(rotate(keys.flatten(1, 2), rotation).view(keys.shape))
            raw = states.to(prefix.raw_dtype).permute(1, 2, 0, 3, 4)
            with video.naming(segment, number, group):
                prefix.append_layers(layers.start, Tier.FP16, raw)
            start = stop
    prefix.set_multiplicity(Tier.FP16, torch.from_numpy(rows.multiplicity))
    return prefix


def _wanted(video: StoredVideo, rows: Arranged) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Segment and number of each block with needed rows, and which of its rows they are."""
    found: list[tuple[int, int, NDArray[np.int64]]] = []
    read = 0
    for piece in rows.pieces:
        for number, within in video.blocks(piece):
            picked = np.asarray(within)[rows.stays[read : read + len(within)]]
            read += len(within)
            if found and found[-1][:2] == (piece.segment, number):
                picked = np.concatenate([found.pop()[2], picked])
            if len(picked):
                found.append((piece.segment, number, picked))
    return found


def _numbers(video: StoredVideo, chosen: Sequence[StoredSample], piece: Piece) -> NDArray[np.int64]:
    """Of each row of a piece its sample among the chosen, -1 before and their count behind all."""
    numbers = {
        int(video.tables[segment].stored[place]): number
        for number, (segment, place) in enumerate(chosen)
        if segment == piece.segment
    }
    if piece == video.text_before:
        numbers[-1] = -1
    else:
        numbers[-1] = len(chosen) if piece.segment == len(video.segments) - 1 else _LEFT_OUT
    sample = video.tables[piece.segment].sample[piece.start : piece.stop]
    return np.array([numbers[int(one)] for one in sample], np.int64)


def _columns(video: StoredVideo, piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cell and multiplicity of each row of a piece."""
    tables, rows = video.tables[piece.segment], slice(piece.start, piece.stop)
    return tables.cell[rows].astype(np.int64), tables.multiplicity[rows].astype(np.int64)


def _place(
    layout: Layout, number: NDArray[np.int64], cell: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Give rows their positions [rows, axes] by the layout of the chosen samples.

    And the question behind them its own. `number` is as of `_numbers`, `cell` -1 is text, which is
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
