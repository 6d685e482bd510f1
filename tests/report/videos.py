"""A drawn video as pages show it: two scenes, pointers in the second."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from batch.report.videos import VideoReport
from batch.video import Geometry
from tests.manifests import make_manifest

SIDE_PX, CELLS = 32, 4


def drawn(samples: int = 8, *, name: str = "drawn.mp4", pointers: int = 2) -> VideoReport:
    """Grey samples, the second half of them lighter, the last ones pointers; a second each."""
    geometry = Geometry(height_px=SIDE_PX, width_px=SIDE_PX, rows=2, columns=2)
    half = samples // 2
    pictures = np.full((samples, SIDE_PX, SIDE_PX, 3), 60, np.uint8)
    pictures[half:] = 200
    last = samples - pointers - 1
    source = [min(sample, last) for sample in range(samples)]
    tier = np.tile(np.array([0, 1, 2, 3], np.uint8), (samples, 1))
    manifest = make_manifest(pictures, geometry, tier=tier, source=source)
    signals = manifest.signals
    difference, saliency = signals.difference.copy(), signals.saliency.copy()
    difference[half], saliency[half:] = 0.5, 0.4
    video = replace(manifest.video, path=Path(name))
    return VideoReport(
        manifest=replace(
            manifest,
            header=replace(manifest.header, video=video),
            signals=replace(signals, difference=difference, saliency=saliency),
        ),
        seconds={"analyze": 0.5},
    )
