"""From videos to manifests, on as many cores as wanted. Knows no command line."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import joblib
import numpy as np
from numpy.typing import NDArray

import batch
from batch.analysis.header import ManifestHeader
from batch.analysis.manifest import Manifest, read_header
from batch.analysis.pictures import PictureSpool
from batch.analysis.rows import SampleRows
from batch.analysis.temporal import (
    TEMPORAL_PROFILES,
    Reference,
    TemporalSettings,
)
from batch.analysis.tiers import PROFILES, TierThresholds, assign
from batch.errors import BatchError, ManifestError
from batch.video import (
    GeometryRule,
    Sampling,
    VideoInfo,
    geometry_for,
    probe,
    read_samples,
)


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings:
    """All that decides what a manifest says of a given video."""

    geometry: GeometryRule
    sampling: Sampling
    temporal: TemporalSettings
    thresholds: TierThresholds


def settings_of_profile(
    profile: str, geometry: GeometryRule, sampling: Sampling, reference: Reference | None = None
) -> AnalyzeSettings:
    """The settings that a profile's name stands for.

    Args:
        reference: sample that redundancy is measured against; None goes by the profile.
    """
    temporal = TEMPORAL_PROFILES[profile]
    if reference is not None:
        temporal = replace(temporal, reference=reference)
    return AnalyzeSettings(
        geometry=geometry, sampling=sampling, temporal=temporal, thresholds=PROFILES[profile]
    )


@dataclass(frozen=True, kw_only=True)
class Analyzed:
    """What became of one video: `error` is None exactly when `manifest` is a whole file.

    `warning` says what of the video could not be read; None: nothing, or there is an error.
    """

    video: Path
    manifest: Path | None
    error: str | None
    warning: str | None
    skipped: bool
    seconds: float


def analyze_video(
    path: Path,
    *,
    geometry: GeometryRule,
    sampling: Sampling,
    temporal: TemporalSettings,
    thresholds: TierThresholds,
) -> Manifest:
    """Decode one video and measure its samples.

    Raises:
        VideoError: it cannot be opened or decoded.
    """
    settings = AnalyzeSettings(
        geometry=geometry, sampling=sampling, temporal=temporal, thresholds=thresholds
    )
    return analyze_probed(probe(path), settings)


def manifest_paths(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where the manifest of each video goes: `out`/<stem>.parquet.

    Raises:
        ValueError: two videos would share one; both are named.
    """
    taken: dict[Path, Path] = {}
    for path in paths:
        target = out / f"{path.stem}.parquet"
        if target in taken:
            raise ValueError(f"{taken[target]} and {path} would both be written to {target}")
        taken[target] = path
    return {path: target for target, path in taken.items()}


def analyze_videos(
    paths: Sequence[Path],
    out: Path,
    *,
    settings: AnalyzeSettings,
    processes: int = 1,
    force: bool = False,
) -> Iterator[Analyzed]:
    """Write a manifest for each video; yields results as they come, in no order.

    A manifest of the same content and settings is skipped; one of others is an error of that
    video, unless `force`. A video that fails does not stop the others.

    Raises:
        ValueError: two videos would share one manifest.
    """
    targets = manifest_paths(paths, out)
    out.mkdir(parents=True, exist_ok=True)
    tasks = (
        joblib.delayed(_analyze_to_file)(path, target, settings, force)
        for path, target in targets.items()
    )
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
    results: Iterator[Analyzed] = parallel(tasks)
    return results


def _analyze_to_file(path: Path, target: Path, settings: AnalyzeSettings, force: bool) -> Analyzed:
    # OpenCV 5.0 has threads of its own, which neither OMP_NUM_THREADS nor the parent reaches.
    cv2.setNumThreads(1)
    start = time.perf_counter()
    error, warning, skipped = None, None, False
    try:
        info = probe(path)
        skipped = not force and target.exists() and _is_done(target, settings, info)
        if not skipped:
            analyze_probed(info, settings, folder=target.parent).write(target)
        warning = read_header(target).warning
    except BatchError as problem:
        error = str(problem)
    except Exception as problem:  # the boundary of one video: recorded, the others go on
        error = f"{path}: {type(problem).__name__}: {problem}"
    return Analyzed(
        video=path,
        manifest=target if error is None else None,
        error=error,
        warning=warning,
        skipped=skipped,
        seconds=time.perf_counter() - start,
    )


def _is_done(target: Path, settings: AnalyzeSettings, info: VideoInfo) -> bool:
    found = Manifest.read(target).header
    read = (found.broken_frames, found.decoded_s, found.interval_s)
    if found.same_work(_header(settings, info, *read)):
        return True
    differs = "video" if found.video.sha256 != info.sha256 else "settings"
    raise ManifestError(
        f"{target}: already holds {found.video.name} with other {differs}; --force replaces it"
    )


def _header(
    settings: AnalyzeSettings,
    info: VideoInfo,
    broken_frames: int,
    decoded_s: float,
    interval_s: float,
) -> ManifestHeader:
    return ManifestHeader(
        tool=batch.__version__,
        video=info,
        broken_frames=broken_frames,
        decoded_s=decoded_s,
        interval_s=interval_s,
        sampling=settings.sampling,
        geometry=geometry_for(settings.geometry, info, settings.sampling),
        temporal=settings.temporal,
        thresholds=settings.thresholds,
    )


def analyze_probed(
    info: VideoInfo,
    settings: AnalyzeSettings,
    *,
    folder: Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Manifest:
    """Decode a video whose digest and facts are known, and measure its samples.

    Args:
        folder: where pictures wait to be written; None: where the system has temporary files.
        progress: as of `read_samples`.

    Raises:
        VideoError: it cannot be opened or decoded.
    """
    start = time.perf_counter()
    geometry = geometry_for(settings.geometry, info, settings.sampling)
    samples = read_samples(
        info.path,
        geometry=geometry,
        rate_hz=settings.sampling.rate_hz,
        max_samples=settings.sampling.max_samples,
        progress=progress,
    )
    rows = SampleRows(
        geometry=geometry,
        temporal=settings.temporal,
        pointers=settings.thresholds.pointers,
        pictures=PictureSpool(folder),
    )
    reference: NDArray[np.uint8] | None = None
    for sample in samples:
        if rows.add(sample, reference):
            reference = sample.rgb
    signals = rows.signals()
    return Manifest(
        header=_header(
            settings, info, samples.broken_frames, samples.decoded_s, samples.interval_s
        ),
        frame=np.array(rows.frame, np.int64),
        pts_s=np.array(rows.pts_s, np.float64),
        last_pts_s=np.array(rows.last_pts_s, np.float64),
        signals=signals,
        tier=assign(signals, settings.thresholds),
        pictures=rows.pictures.pictures(),
        analyze_seconds=time.perf_counter() - start,
    )
