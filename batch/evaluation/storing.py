"""One method on one video, up to the point where questions can be asked.

Methods that choose cells write a cache file, as the product does; those that merge features or
store rows in their own way answer from memory, and are charged for a file as large.
"""

import time
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
from batch.evaluation.budgets import budget_of, prices, size_bytes
from batch.evaluation.methods import Budget, CellMethod, FeatureMethod, Method, RowMethod
from batch.evaluation.methods.row_method import Queries, Rows
from batch.evaluation.uncompressed import AttentionMass, RowAnswerer, Uncompressed, embed
from batch.kv.rotation import rotate, unrotate
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.models import Family
from batch.models.checkpoint import dtype_name
from batch.settings import CacheSettings, Limit
from batch.video import Footage, Sampling, geometry_for, probe, read_samples
from cachefmt import CacheFile
from cachefmt.layout import token_bytes
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
        self._read: tuple[tuple[Queries, ...], Uncompressed, Rows] | None = None

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
                positions=method.positions, reuse=method.reuse, quality=method.quality
            ),
        )

    def positions(self, slots: NDArray[np.bool_] | slice = slice(None)) -> Tensor:
        """Of some slots, [axes, slots]."""
        return torch.from_numpy(self.full_plan.plan.positions[slots].T)

    def read(self, observed: tuple[Queries, ...]) -> tuple[Uncompressed, Rows]:
        """The rows that the model makes of every slot, keys rotated, and what was observed.

        Held until others are asked for: methods that observe the same come one after another.
        """
        if self._read is None or self._read[0] != observed:
            self._read = observed, *self._observe(observed)
        return self._read[1:]

    def _observe(self, observed: tuple[Queries, ...]) -> tuple[Uncompressed, Rows]:
        masses = [AttentionMass(queries) for queries in observed]
        full = Uncompressed(self.family, self.pictures, self.footage, masses=masses)
        layers = [full.rows(layer) for layer in range(self.family.decoder.layers)]
        key, value = (
            torch.stack([states.transpose(0, 1).float().cpu() for states in kind])
            for kind in zip(*layers, strict=True)
        )
        plan = self.full_plan.plan
        return full, Rows(
            key=key,
            value=value,
            attention={mass.queries: mass.attention(plan.slots) for mass in masses},
            sample=torch.from_numpy(plan.sample).long(),
            cell=torch.from_numpy(plan.cell).long(),
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

    answerer: PrefixAnswerer | RowAnswerer
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
    budget = None if limit is None else budget_of(limit, video.full_plan)
    if isinstance(method, RowMethod):
        return _hold_rows(method, video, budget)
    if isinstance(method, FeatureMethod):
        return _merge_cells(method, video, budget)
    return _write_cells(method, video, budget, folder / "evaluated.safetensors")


def _write_cells(
    method: CellMethod, video: PreparedVideo, budget: Budget | None, path: Path
) -> Stored:
    plan = _fullest_plan(method, video, budget)
    took = prefill(plan, video.family, path)
    manifest = video.manifest(method.temporal, method.thresholds)
    analyse = manifest.analyze_seconds - video.decode_seconds if method.reads_signals else 0.0
    with CacheFile.open(path) as cache:
        answerer = PrefixAnswerer.of_cache(cache, video.family)
        kv_bytes = kv_bytes_in(cache)
    return Stored(
        answerer=answerer,
        size_bytes=path.stat().st_size,
        kv_bytes=kv_bytes,
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


def kv_bytes_in(cache: CacheFile) -> int:
    """Of a file's keys and values, their bases among them."""
    names = [name for name in cache.names if name.startswith(("basis.", "block."))]
    return sum(map(cache.tensor_bytes, names))


def _hold_rows(method: RowMethod, video: PreparedVideo, budget: Budget | None) -> Stored:
    plan, family = video.full_plan, video.family
    full, rows = video.read(method.observed)
    started = time.perf_counter()
    count = _rows_within(method, budget, plan)
    cpu = torch.device("cpu")
    turn = None if method.rotated else family.rotation(video.positions().T).to(cpu)
    if turn is not None:
        rows = replace(rows, key=torch.stack([unrotate(key, turn) for key in rows.key]))
    held = method.store(rows, count)
    key = held.key if turn is None else torch.stack([rotate(key, turn) for key in held.key])
    answerer = RowAnswerer(family, plan.plan.next_position, held.times)
    answerer.fill(key, held.value)
    return Stored(
        answerer=answerer,
        size_bytes=size_bytes(0, plan) + held.size_bytes,
        kv_bytes=held.size_bytes,
        tokens=_fp16(count),
        seconds=video.seconds(
            encode=full.encode_seconds,
            prefill=full.forward_seconds,
            quantise=time.perf_counter() - started,
        ),
    )


def _rows_within(method: RowMethod, budget: Budget | None, full_plan: CachePlan) -> int:
    """How many rows a layer and head a budget holds, a mean."""
    slots, shape = full_plan.plan.slots, full_plan.header.shape
    if budget is None:
        return slots
    if budget.unit == "tokens":
        return min(budget.amount, slots)
    room = budget.amount - size_bytes(0, full_plan)
    rows_shape = (shape.layers, shape.heads, slots)
    return method.rows_within(rows_shape, room, token_bytes(shape, Tier.FP16))


@torch.inference_mode()
def _merge_cells(method: FeatureMethod, video: PreparedVideo, budget: Budget | None) -> Stored:
    if budget is None:
        raise ValueError(f"{method.name}: needs a budget")
    full, family = video.full_plan, video.family
    started = time.perf_counter()
    features = family.features(video.pictures, video.footage.geometry)
    encoded = time.perf_counter()
    kept = method.keep(features.float().cpu(), prices(full, budget.unit), budget)
    embedded = embed(family, video.pictures, video.footage, features=kept.features)
    sample, cell = (
        torch.from_numpy(of_slots).long() for of_slots in (full.plan.sample, full.plan.cell)
    )
    # A sample's separators go with its last cell; those of the first stay, as in every method.
    opened = kept.is_kept.any(1)
    opened[0] = True
    enters = torch.where(cell < 0, (sample < 0) | opened[sample], kept.is_kept[sample, cell])
    times = torch.where(cell < 0, 1.0, kept.times[sample, cell])[enters]
    chosen = time.perf_counter()
    shape = full.header.shape
    counted = times.expand(shape.layers, shape.heads, -1) if (times > 1).any() else None
    answerer = RowAnswerer(family, full.plan.next_position, counted)
    answerer.read(embedded[enters], video.positions(enters.numpy()))
    count = int(enters.sum())
    return Stored(
        answerer=answerer,
        size_bytes=size_bytes(count, full),
        kv_bytes=count * token_bytes(shape, Tier.FP16),
        tokens=_fp16(count),
        seconds=video.seconds(
            encode=encoded - started,
            quantise=chosen - encoded,
            prefill=time.perf_counter() - chosen,
        ),
    )


def _fp16(count: int) -> dict[str, int]:
    return token_counts({Tier.FP16: count})
