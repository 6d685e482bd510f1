"""One video as every method gets it: decoded once, analysed once for each way to analyse it."""

import time
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES, TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds
from batch.making.cache_plan import CachePlan, plan_cache
from batch.models import Family
from batch.models.weights import dtype_name
from batch.video import Footage, Sampling, geometry_for, probe, read_samples

PARTS = ("decode", "analyse", "encode", "prefill", "quantise", "write")
"""Where the time of a method goes; evicting rows counts as quantising."""


class Viewing:
    """The samples of a video in the geometry of a loaded model, and what phase 1 says of them."""

    def __init__(self, path: Path, family: Family, sampling: Sampling) -> None:
        """Decode the video.

        Raises:
            VideoError: it cannot be opened or decoded.
        """
        self.path = path
        self.family = family
        self._sampling = sampling
        geometry = geometry_for(family.geometry, probe(path), sampling)
        started = time.perf_counter()
        samples = read_samples(
            path,
            geometry=geometry,
            rate_hz=sampling.rate_hz,
            max_samples=sampling.max_samples,
        )
        self.pictures: NDArray[np.uint8] = np.stack([sample.rgb for sample in samples])
        self.decode_seconds = time.perf_counter() - started
        self._manifests: dict[tuple[TemporalSettings, TierThresholds], Manifest] = {}

    def manifest(self, temporal: TemporalSettings, thresholds: TierThresholds) -> Manifest:
        """The manifest of these settings; what it took to make is in `analyze_seconds`."""
        settings = (temporal, thresholds)
        if settings not in self._manifests:
            self._manifests[settings] = analyze_video(
                self.path,
                self.family.geometry,
                AnalysisSettings(sampling=self._sampling, temporal=temporal, thresholds=thresholds),
            )
        return self._manifests[settings]

    @property
    def footage(self) -> Footage:
        """When the samples were taken."""
        return self._whole.footage

    @property
    def dtype(self) -> str:
        """The type that the model runs in, as the header of a cache names it."""
        return dtype_name(self.family.model.dtype)

    @cached_property
    def png(self) -> list[bytes]:
        """PNG of every sample."""
        return [png for png in self._whole.pictures if png is not None]

    @cached_property
    def everything(self) -> CachePlan:
        """The plan in which every slot is stored."""
        return plan_cache(self._whole, self.family, dtype=self.dtype, identify_weights=False)

    def seconds(self, **parts: float) -> dict[str, float]:
        """What a method took, by the names of PARTS: these and decoding, the rest 0."""
        return {**dict.fromkeys(PARTS, 0.0), "decode": self.decode_seconds, **parts}

    @property
    def _whole(self) -> Manifest:
        return self.manifest(TEMPORAL_PROFILES["none"], PROFILES["none"])
