"""Pictures of videos that a method lost an answer about: each sample and what was stored of it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.evaluation.measure import reference_right, right
from batch.evaluation.runs import Asked, Run
from batch.report.tiers_drawn import draw_tiers

_WIDTH_PX = 168
_COLUMNS = 8


def failures(runs: Sequence[Run], most: int) -> list[tuple[Run, Asked]]:
    """Questions that the uncompressed model answers rightly and these runs do not.

    One a video, as long as there are others; those about which the model is least like the
    uncompressed one come first.
    """
    lost = [
        (run, one) for run in runs for one in run.asked if reference_right(one) and not right(one)
    ]
    lost.sort(key=lambda found: found[1].kl or 0.0, reverse=True)
    worst = {found[0].video: found for found in reversed(lost)}
    return sorted(lost, key=lambda found: worst[found[0].video] is not found)[:most]


def draw_failure(pictures: NDArray[np.uint8], manifest: Manifest, path: Path) -> None:
    """A sheet of all samples, each over its tiers; a pointer shows the sample it refers to.

    Args:
        pictures: uint8 RGB [samples, height, width, 3].
        manifest: of the same samples.
        path: PNG.
    """
    grid = (manifest.geometry.rows, manifest.geometry.columns)
    tiles = []
    for sample, (rgb, source) in enumerate(zip(pictures, manifest.source, strict=True)):
        drawn = draw_tiers(rgb, manifest.tier[sample].reshape(grid))
        height_px = round(drawn.shape[0] * _WIDTH_PX / drawn.shape[1])
        small = cv2.resize(drawn, (_WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
        plain = cv2.resize(rgb, (_WIDTH_PX, _WIDTH_PX), interpolation=cv2.INTER_CUBIC)
        text = f"{sample}" if source == sample else f"{sample} -> {source}"
        tiles.append(np.vstack([_strip(text), plain, small, _strip("")]))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[first : first + _COLUMNS]) for first in range(0, len(tiles), _COLUMNS)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _strip(text: str) -> NDArray[np.uint8]:
    strip = np.full((18, _WIDTH_PX, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
