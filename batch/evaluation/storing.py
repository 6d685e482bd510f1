"""One method on one video, up to the point where questions can be asked.

Methods that choose cells write a cache file, as the product does at quality lossless; methods
that evict rows read everything first, in memory, without a file.
"""

import time
from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.analysis.neural import SaliencyNetwork
from batch.analysis.temporal import TEMPORAL_PROFILES, TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds
from batch.answering import PrefixAnswerer
from batch.evaluation.budgets import Limit, prices, size_bytes
from batch.evaluation.methods import Budget, CellMethod, Method, RowMethod
from batch.evaluation.uncompressed import AttentionMass, Uncompressed
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.models import Family
from batch.models.checkpoint import dtype_name
from batch.settings import CacheSettings
from batch.video import Footage, Sampling, geometry_for, probe, read_samples
from cachefmt import CacheFile
from cachefmt.layout import kv_bytes
from cachefmt.tiers import Tier, token_counts

PARTS = ("decode", "analyse", "encode", "prefill", "quantise", "write")
"""Where the time of a method goes; evicting rows counts as quantising."""


class PreparedVideo:
    """One video as every method gets it: decoded once, analysed once for each way to analyse it."""

    def __init__(
        self,
        path: Path,
        family: Family,
        sampling: Sampling,
        saliency: SaliencyNetwork | None = None,
    ) -> None:
        self.path = path
        self.family = family
        self._sampling = sampling
        self._saliency = saliency
        geometry = geometry_for(family.geometry, probe(path), sampling)
        started = time.perf_counter()
        samples = read_samples(
            path, geometry=geometry, rate_hz=sampling.rate_hz, max_samples=sampling.max_samples
        )
        self.pictures: NDArray[np.uint8] = np.stack([sample.rgb for sample in samples])
        self.decode_seconds = time.perf_counter() - started
        self._manifests: dict[AnalysisSettings, Manifest] = {}

    def manifest(self, temporal: TemporalSettings, thresholds: TierThresholds) -> Manifest:
        """The manifest of these settings; what it took to make is in `analyze_seconds`."""
        settings = AnalysisSettings(
            sampling=self._sampling,
            temporal=temporal,
            thresholds=thresholds,
            saliency=self._saliency,
        )
        if settings not in self._manifests:
            self._manifests[settings] = analyze_video(self.path, self.family.geometry, settings)
        return self._manifests[settings]

    @property
    def footage(self) -> Footage:
        return self._full_manifest.footage

    @cached_property
    def full_plan(self) -> CachePlan:
        """The plan in which every slot is stored."""
        return plan_cache(
            self._full_manifest,
            self.family,
            CacheSettings(quality="lossless"),
            dtype=self._dtype,
            identify_weights=False,
        )

    def plan(self, method: CellMethod, budget: Budget | None) -> CachePlan:
        """What a method stores, before it is known how long the header becomes."""
        png = [picture for picture in self._full_manifest.pictures if picture is not None]
        cost = prices(self.full_plan, "tokens" if budget is None else budget.unit)
        manifest = self.manifest(method.temporal, method.thresholds)
        return plan_cache(
            method.choose(manifest, png, cost, budget),
            self.family,
            dtype=self._dtype,
            settings=CacheSettings(
                positions=method.positions, reuse=method.reuse, quality="lossless"
            ),
        )

    def seconds(self, **parts: float) -> dict[str, float]:
        """What a method took, by the names of PARTS: these and decoding, the rest 0."""
        return {**dict.fromkeys(PARTS, 0.0), "decode": self.decode_seconds, **parts}

    @property
    def _full_manifest(self) -> Manifest:
        return self.manifest(TEMPORAL_PROFILES["none"], PROFILES["none"])

    @property
    def _dtype(self) -> str:
        return dtype_name(self.family.model.dtype)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a method holds of a video, ready for questions.

    - size_bytes: of methods with a file the file, of others as if all were in one.
    - kv_bytes: K and V alone, scales and minima included. tokens: stored ones by tier.
    - seconds: by the names of `PARTS`; a part that the method lacks is 0.
    - plan: what was written, of methods that choose cells.
    """

    answerer: PrefixAnswerer | Uncompressed
    size_bytes: int
    kv_bytes: int
    tokens: dict[str, int]
    seconds: dict[str, float]
    plan: CachePlan | None = None


def store_uncompressed(video: PreparedVideo, *, is_blank: bool = False) -> Stored:
    """Transformers' own forward over every slot, or over as many of a grey video."""
    pictures = np.full_like(video.pictures, 128) if is_blank else video.pictures
    full = Uncompressed(video.family, pictures, video.footage)
    whole = video.full_plan.header.fp16_kv_bytes
    return Stored(
        answerer=full,
        size_bytes=whole,
        kv_bytes=whole,
        tokens=_fp16(video.full_plan.plan.slots),
        seconds=video.seconds(encode=full.encode_seconds, prefill=full.forward_seconds),
    )


def store(method: Method, video: PreparedVideo, limit: Limit | None, folder: Path) -> Stored:
    """Run a method within a budget.

    Args:
        limit: None stores what the method wants.
        folder: where a cache file may be written; an older one is replaced.

    Raises:
        BatchError: the budget does not even hold the text, or not a single row.
    """
    budget = None if limit is None else limit.of(video.full_plan)
    if isinstance(method, RowMethod):
        return _evict_rows(method, video, budget)
    return _write_cells(method, video, budget, folder / "evaluated.safetensors")


def _write_cells(
    method: CellMethod, video: PreparedVideo, budget: Budget | None, path: Path
) -> Stored:
    plan = _fullest_plan(method, video, budget)
    took = prefill(plan, video.family, path)
    manifest = video.manifest(method.temporal, method.thresholds)
    analyse = manifest.analyze_seconds - video.decode_seconds if method.reads_signals else 0.0
    with closing(CacheFile.open(path)) as cache:
        prefix = Prefix.load(cache, video.family.layer_devices)
    return Stored(
        answerer=_answerer(prefix, plan, video),
        size_bytes=plan.size_bytes,
        kv_bytes=kv_bytes(plan.header.shape),
        tokens=dict(plan.header.shape.tokens),
        seconds=video.seconds(
            analyse=max(0.0, analyse),
            encode=took.encode,
            prefill=took.forward,
            quantise=took.quantise,
            write=took.write,
        ),
        plan=plan,
    )


def _fullest_plan(method: CellMethod, video: PreparedVideo, budget: Budget | None) -> CachePlan:
    """The fullest plan within a budget, though a plan's header is known only when it is made."""
    plan = video.plan(method, budget)
    if budget is None or budget.unit == "tokens":
        return plan
    amount = budget.amount
    while plan.size_bytes > budget.amount:
        amount -= plan.size_bytes - budget.amount
        plan = video.plan(method, replace(budget, amount=amount))
    return plan


def _evict_rows(method: RowMethod, video: PreparedVideo, budget: Budget | None) -> Stored:
    plan = video.full_plan
    mass = AttentionMass(method.observed_queries)
    full = Uncompressed(video.family, video.pictures, video.footage, mass=mass)
    started = time.perf_counter()
    observed = torch.stack([of_layer.cpu() for of_layer in mass.of_layers])
    count = _rows_within(budget, plan)
    prefix = _kept_rows(full, method.keep(observed, count), plan)
    return Stored(
        answerer=_answerer(prefix, plan, video),
        size_bytes=size_bytes(count, plan),
        kv_bytes=prefix.size_bytes,
        tokens=_fp16(count),
        seconds=video.seconds(
            encode=full.encode_seconds,
            prefill=full.forward_seconds,
            quantise=time.perf_counter() - started,
        ),
    )


def _rows_within(budget: Budget | None, full_plan: CachePlan) -> int:
    slots = full_plan.plan.slots
    if budget is None:
        return slots
    if budget.unit == "tokens":
        return min(budget.amount, slots)
    counts = range(slots + 1)
    return bisect_right(counts, budget.amount, key=lambda rows: size_bytes(rows, full_plan)) - 1


def _kept_rows(full: Uncompressed, kept: Tensor, full_plan: CachePlan) -> Prefix:
    """A prefix of the rows int64 [layers, kv_heads, count] of a full cache."""
    shape = replace(full_plan.header.shape, tokens=_fp16(kept.shape[-1]))
    prefix = Prefix.allocate(shape, full.rows(0)[0].device)
    for layer, rows in enumerate(kept):
        chosen = rows[..., None].expand(-1, -1, shape.head_dim)
        key, value = (
            states.gather(1, chosen.to(states.device)).transpose(0, 1).to(prefix.raw_dtype)
            for states in full.rows(layer)
        )
        prefix.append(layer, Tier.FP16, key, value)
    return prefix


def _fp16(count: int) -> dict[str, int]:
    return token_counts({Tier.FP16: count})


def _answerer(prefix: Prefix, plan: CachePlan, video: PreparedVideo) -> PrefixAnswerer:
    return PrefixAnswerer(
        prefix, video.family, next_position=plan.plan.next_position, name=video.path.name
    )
