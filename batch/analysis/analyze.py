"""From one video to its manifest: every sample measured as it is decoded."""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from batch.analysis.header import ManifestHeader
from batch.analysis.manifest import Manifest
from batch.analysis.neural import SaliencyNetwork
from batch.analysis.pictures import PictureSpool, encode_png
from batch.analysis.saliency import MapOf, cell_saliency, saliency_map
from batch.analysis.signals import Signals
from batch.analysis.temporal import TEMPORAL_PROFILES, Change, TemporalSettings, compare
from batch.analysis.tiers import PROFILES, TierThresholds, assign
from batch.settings import Reference
from batch.version import __version__
from batch.video import (
    Geometry,
    GeometryRule,
    Sample,
    SampleReader,
    Sampling,
    VideoInfo,
    geometry_for,
    probe,
    read_samples,
)


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """All but the model's geometry that decides what a manifest says of a given video.

    `saliency` None: of edges and colours, for which the thresholds of the profiles are made.
    """

    sampling: Sampling
    temporal: TemporalSettings
    thresholds: TierThresholds
    saliency: SaliencyNetwork | None = None

    @property
    def saliency_sha256(self) -> str | None:
        """Digest of the network that tells it."""
        return None if self.saliency is None else self.saliency.sha256

    @classmethod
    def of_profile(
        cls,
        profile: str = "default",
        *,
        sampling: Sampling | None = None,
        reference: Reference | None = None,
        saliency: SaliencyNetwork | None = None,
    ) -> Self:
        """The settings that a profile of `PROFILES` stands for, by default a sample a second.

        `reference` None goes by the profile.
        """
        temporal = TEMPORAL_PROFILES[profile]
        if reference is not None:
            temporal = replace(temporal, reference=reference)
        return cls(
            sampling=sampling or Sampling(),
            temporal=temporal,
            thresholds=PROFILES[profile],
            saliency=saliency,
        )


def analyze_video(
    video: Path | VideoInfo,
    rule: GeometryRule,
    settings: AnalysisSettings,
    *,
    folder: Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Manifest:
    """Decode a video, or the file that `probe` looked at, and measure its samples.

    Args:
        folder: where pictures wait to be written; None: where the system has temporary files.
        progress: as of `read_samples`.

    Raises:
        VideoError: it cannot be opened or decoded.
        ModelError: the network for saliency cannot be used.
    """
    start = time.perf_counter()
    info = probe(video) if isinstance(video, Path) else video
    geometry = geometry_for(rule, info, settings.sampling)
    samples = read_samples(
        info.path,
        geometry=geometry,
        rate_hz=settings.sampling.rate_hz,
        max_samples=settings.sampling.max_samples,
        progress=progress,
    )
    rows = _Rows(
        geometry=geometry,
        temporal=settings.temporal,
        pointers=settings.thresholds.pointers,
        pictures=PictureSpool(folder),
        saliency_of=saliency_map if settings.saliency is None else settings.saliency.map,
    )
    reference: NDArray[np.uint8] | None = None
    for sample in samples:
        reference = rows.add(sample, reference)
    signals = rows.signals()
    return Manifest(
        header=_header(info, geometry, settings, samples),
        frame=np.array(rows.frame, np.int64),
        pts_s=np.array(rows.pts_s, np.float64),
        last_pts_s=np.array(rows.last_pts_s, np.float64),
        signals=signals,
        tier=assign(signals, settings.thresholds),
        pictures=rows.pictures.pictures(),
        analyze_seconds=time.perf_counter() - start,
    )


def _header(
    info: VideoInfo, geometry: Geometry, settings: AnalysisSettings, read: SampleReader
) -> ManifestHeader:
    """Of a video whose samples were read to the end."""
    return ManifestHeader(
        tool=__version__,
        video=info,
        broken_frames=read.broken_frames,
        clock_repairs=read.clock_repairs,
        decoded_s=read.decoded_s,
        interval_s=read.interval_s,
        sampling=settings.sampling,
        geometry=geometry,
        temporal=settings.temporal,
        thresholds=settings.thresholds,
        saliency_sha256=settings.saliency_sha256,
    )


def _floats() -> "array[float]":
    """Of all cells so far, one after the other, with nothing between them in memory."""
    return array("f")


@dataclass(kw_only=True)
class _Rows:
    """Grows by one row a sample. The pictures of those that are kept go to a spool."""

    geometry: Geometry
    temporal: TemporalSettings
    pointers: bool
    """Whether a redundant sample becomes a pointer."""
    pictures: PictureSpool
    saliency_of: MapOf
    frame: list[int] = field(default_factory=list)
    pts_s: list[float] = field(default_factory=list)
    last_pts_s: list[float] = field(default_factory=list)
    flow_px: "array[float]" = field(default_factory=_floats)
    difference: "array[float]" = field(default_factory=_floats)
    saliency: "array[float]" = field(default_factory=_floats)
    redundancy: list[float] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    still: int = 0
    """Samples since the one that changed last, which counts too."""

    def add(self, sample: Sample, reference: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        """Measure a sample against its reference; the picture that is that of the next one."""
        pointable = False
        nothing = np.zeros(self.geometry.cells, np.float32)
        change = Change(flow_px=nothing, difference=nothing, redundancy=0.0)
        if reference is not None:
            change = compare(sample.rgb, reference, self.geometry, self.temporal)
            redundant = self.temporal.is_redundant(change.redundancy, change.difference)
            pointable = self.pointers and redundant
        self.frame.append(sample.frame)
        self.pts_s.append(sample.pts_s)
        self.last_pts_s.append(sample.last_pts_s)
        saliency = cell_saliency(sample.rgb, self.geometry, self.saliency_of)
        self.saliency.frombytes(saliency.tobytes())
        self.flow_px.frombytes(change.flow_px.tobytes())
        self.difference.frombytes(change.difference.tobytes())
        self.redundancy.append(change.redundancy)
        self.still = self.still + 1 if pointable else 1
        kept = self.still <= self.temporal.still_samples
        self.source.append(sample.index if kept else self.source[-1])
        self.pictures.add(encode_png(sample.rgb) if kept else None)
        if reference is not None and self.temporal.reference == "cells":
            static = self.temporal.is_static(change.flow_px, change.difference)
            changed = self.geometry.with_cells(reference, sample.rgb, ~static)
            return changed if kept else reference
        is_next = not pointable or self.temporal.reference == "previous"
        return sample.rgb if reference is None or is_next else reference

    def signals(self) -> Signals:
        """Those of all samples so far, over the memory of these rows."""
        flow_px, difference, saliency = (
            np.frombuffer(cells, np.float32).reshape(len(self.frame), -1)
            for cells in (self.flow_px, self.difference, self.saliency)
        )
        static = self.temporal.static_cells(flow_px, difference)
        return Signals(
            flow_px=flow_px,
            difference=difference,
            saliency=saliency,
            static=static,
            redundancy=np.array(self.redundancy, np.float32),
            source=np.array(self.source, np.int32),
        )
