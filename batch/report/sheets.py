"""Samples with their tiers on a contact sheet, a file of a picture."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from batch.analysis.manifest import Manifest
from batch.report.drawing import clock
from batch.report.pictures import choose
from batch.report.tiers import legend, tint
from jobs.atomic import make_folder, write_errors

_TILE_PX, _LABEL_PX, _GAP_PX = 224, 20, 4
_MOST_COLUMNS, _MOST_SAMPLES = 6, 48


def write_sheet(manifest: Manifest, states: NDArray[np.uint8], path: Path) -> None:
    """Draw the contact sheet of a video, of 48 stored samples at most, evenly in time.

    Args:
        states: of each cell, codes of `STATES`, [samples, cells].

    Raises:
        BatchError: a picture is damaged.
        JobError: the file cannot be written.
    """
    samples = choose(manifest.kept, (), (), _MOST_SAMPLES)
    sheet = Image.fromarray(contact_sheet(manifest, states, samples))
    make_folder(path.parent)
    with write_errors(path):
        sheet.save(path)


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
    grid = states.reshape(manifest.geometry.rows, manifest.geometry.columns)
    drawn = tint(manifest.picture(sample), grid, _TILE_PX)
    label = Image.new("RGB", (drawn.shape[1], _LABEL_PX), "white")
    copies = int(manifest.multiplicity[sample])
    text = clock(float(manifest.pts_s[sample])) + (f"   {copies}x" if copies > 1 else "")
    font = ImageFont.load_default(14)
    ImageDraw.Draw(label).text((1, 1), text, fill=(60, 60, 60), font=font)
    return np.vstack([drawn, np.asarray(label)])
