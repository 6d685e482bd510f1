"""Samples with their tiers as files of pictures: a contact sheet, or a file each."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.report.drawing import clock
from batch.report.pictures import choose
from batch.report.tiers import draw_tiers, legend, tint
from jobs.atomic import write_errors

_TILE_PX, _LABEL_PX, _GAP_PX = 224, 20, 4
_MOST_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class PictureChoice:
    """Which stored samples are drawn: at most so many, evenly, of a half-open range of time.

    `is_apart` gives a file each in place of a contact sheet.
    """

    start_s: float = 0.0
    stop_s: float = math.inf
    most: int = 48
    is_apart: bool = False

    def samples(self, manifest: Manifest) -> list[int]:
        """Rising; a BatchError if there are none."""
        pts_s = manifest.pts_s
        inside = manifest.kept & (pts_s >= self.start_s) & (pts_s < self.stop_s)
        chosen = choose(inside, (), (), self.most)
        if not chosen:
            raise BatchError(
                f"{manifest.video.name}: no stored sample from {clock(self.start_s)} to "
                f"{clock(min(self.stop_s, pts_s[-1]))}; it has samples from {clock(pts_s[0])} to "
                f"{clock(pts_s[-1])}"
            )
        return chosen


def write_pictures(
    manifest: Manifest,
    states: NDArray[np.uint8],
    choice: PictureChoice,
    folder: Path,
    stem: str,
) -> list[Path]:
    """Draw samples from their manifest alone, into a folder that there is.

    Args:
        states: of each cell, codes of `STATES`, [samples, cells].

    Raises:
        BatchError: there are no such samples, or a picture is damaged.
        JobError: a file cannot be written.
    """
    samples = choice.samples(manifest)
    if not choice.is_apart:
        sheet = folder / f"{stem}.png"
        _save(contact_sheet(manifest, states, samples), sheet)
        return [sheet]
    written = []
    for sample in samples:
        written.append(folder / f"{stem}-{sample:05}.png")
        _save(draw_tiers(manifest.picture(sample), _grid(manifest, states[sample])), written[-1])
    return written


def contact_sheet(
    manifest: Manifest, states: NDArray[np.uint8], samples: list[int]
) -> NDArray[np.uint8]:
    """Samples in rows with time and tiers, under a legend; uint8 RGB [height, width, 3]."""
    tiles = [_tile(manifest, states[sample], sample) for sample in samples]
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    key = legend(states[samples])
    across = max(columns * (width + _GAP_PX) + _GAP_PX, key.shape[1])
    sheet = np.full((key.shape[0] + rows * (height + _GAP_PX), across, 3), 255, np.uint8)
    sheet[: key.shape[0], : key.shape[1]] = key
    for place, tile in enumerate(tiles):
        top = key.shape[0] + place // columns * (height + _GAP_PX)
        left = _GAP_PX + place % columns * (width + _GAP_PX)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _tile(manifest: Manifest, states: NDArray[np.uint8], sample: int) -> NDArray[np.uint8]:
    drawn = tint(manifest.picture(sample), _grid(manifest, states), _TILE_PX)
    label = Image.new("RGB", (drawn.shape[1], _LABEL_PX), "white")
    copies = int(manifest.multiplicity[sample])
    text = clock(float(manifest.pts_s[sample])) + (f"   {copies}x" if copies > 1 else "")
    font = ImageFont.load_default(14)
    ImageDraw.Draw(label).text((1, 1), text, fill=(60, 60, 60), font=font)
    return np.vstack([drawn, np.asarray(label)])


def _grid(manifest: Manifest, states: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return states.reshape(manifest.geometry.rows, manifest.geometry.columns)


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    with write_errors(path):
        Image.fromarray(picture).save(path)
