"""Pictures of videos that a method lost an answer about: each sample and what was stored of it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.evaluation.measure import reference_right, right
from batch.evaluation.runs import Asked, Run
from batch.report.tiers_drawn import tint

_WIDTH_PX = 112
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
    """A sheet of all samples, each over its tiers; a pointer names the sample it refers to.

    Args:
        pictures: uint8 RGB [samples, height, width, 3].
        manifest: of the same samples.
        path: of a picture file.
    """
    grid = (manifest.geometry.rows, manifest.geometry.columns)
    tiles = []
    for sample, (rgb, source) in enumerate(zip(pictures, manifest.source, strict=True)):
        drawn = tint(rgb, manifest.tier[sample].reshape(grid), _WIDTH_PX)
        plain = cv2.resize(rgb, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
        text = f"{sample}" if source == sample else f"{sample} -> {source}"
        tiles.append(np.vstack([_strip(text), plain, drawn]))
    columns = min(_COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _strip(text: str) -> NDArray[np.uint8]:
    strip = np.full((18, _WIDTH_PX, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
