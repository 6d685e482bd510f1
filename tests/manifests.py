"""Manifests made from pictures and tiers, without a video."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.analysis.header import ManifestHeader
from batch.analysis.manifest import Manifest
from batch.analysis.signals import Signals
from batch.analysis.temporal import TemporalSettings
from batch.analysis.tiers import PROFILES
from batch.video import Geometry, Sampling, VideoInfo
from cachefmt.tiers import Tier

if TYPE_CHECKING:
    from batch.models import Family


def geometry_of(family: "Family") -> Geometry:
    """The geometry of a family that has one for all videos."""
    assert isinstance(family.geometry, Geometry)
    return family.geometry


def random_pictures(samples: int, geometry: Geometry, seed: int = 3) -> NDArray[np.uint8]:
    shape = (samples, *geometry.picture_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_manifest(
    pictures: NDArray[np.uint8],
    geometry: Geometry,
    *,
    tier: NDArray[np.uint8] | None = None,
    source: list[int] | None = None,
    static: NDArray[np.bool_] | None = None,
) -> Manifest:
    """A manifest of these pictures; all FP16, nothing static, no pointers unless told otherwise."""
    samples, cells = len(pictures), geometry.cells
    shape = (samples, cells)
    sources = np.array(range(samples) if source is None else source, np.int32)
    kept = sources == np.arange(samples)
    tiers = np.full(shape, Tier.FP16, np.uint8) if tier is None else tier.copy()
    tiers[~kept] = Tier.PRUNE
    blank = np.zeros(shape, np.float32)
    video = VideoInfo(
        path=Path("drawn.mp4"),
        sha256="0" * 64,
        size_bytes=1,
        codec="none",
        width_px=geometry.width_px,
        height_px=geometry.height_px,
        shown_width_px=geometry.width_px,
        shown_height_px=geometry.height_px,
        duration_s=float(samples),
        span_s=float(samples * geometry.frames),
        caveat=None,
    )
    return Manifest(
        header=ManifestHeader(
            tool="test",
            video=video,
            broken_frames=0,
            clock_repairs=0,
            decoded_s=float(samples),
            interval_s=1.0,
            sampling=Sampling(),
            geometry=geometry,
            temporal=TemporalSettings(),
            thresholds=PROFILES["paper"],
        ),
        frame=np.arange(samples, dtype=np.int64),
        pts_s=np.arange(samples, dtype=np.float64) * geometry.frames,
        last_pts_s=np.arange(1, samples + 1, dtype=np.float64) * geometry.frames - 1,
        signals=Signals(
            flow_px=blank,
            difference=blank,
            saliency=blank,
            static=np.zeros(shape, bool) if static is None else static,
            redundancy=np.zeros(samples, np.float32),
            source=sources,
        ),
        tier=tiers,
        pictures=[
            _png(picture) if keep else None for picture, keep in zip(pictures, kept, strict=True)
        ],
        analyze_seconds=0.0,
    )


def _png(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
