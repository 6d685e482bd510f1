"""The cache of a video about to be written: what goes in, in which files of which size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from batch.analysis.manifest import Manifest
from batch.errors import ManifestError
from batch.kv.rotation import why_fixed
from batch.making.codec import SEARCHED_STEPS, choose_codec
from batch.making.header import RAW_DTYPES, make_header, make_shapes, promised_kl
from batch.making.plan import Plan, make_plan
from batch.making.segments import Span
from batch.models import Family
from batch.settings import CacheSettings
from batch.video import geometry_for, length_s
from cachefmt import WHOLE_VIDEO, Codec, Header, Tables, file_size

if TYPE_CHECKING:
    from cachefmt.calibration import Calibration

_BLOCK_TOKENS = {"cpu": 512, "cuda": 2304}
_MOST_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """One file about to be written: what goes in, and how large it will be."""

    manifest: Manifest
    """Of the samples that go in."""
    plan: Plan
    header: Header
    block_samples: int
    """Stored samples prefilled together; later blocks see the tiers of earlier ones."""
    calibration: "Calibration | None" = None
    """The one that the header names."""
    codec_note: str | None = None
    """What a person should know of the codec that was chosen."""
    budget_bytes: int | None = None
    """The most that the file may have, if that decides its step."""

    @property
    def max_kl(self) -> float | None:
        """The error that the file is to keep; None: whatever its step gives."""
        return promised_kl(self.header)

    def with_codec(self, codec: Codec) -> "CachePlan":
        """The same rows in a file of another codec."""
        return replace(self, header=replace(self.header, codec=codec))

    @cached_property
    def tables(self) -> Tables:
        return Tables(
            time_s=self.manifest.pts_s,
            source=self.plan.source,
            tier=self.plan.tier,
            sample=self.plan.sample,
            cell=self.plan.cell,
            multiplicity=self.plan.multiplicity,
            position=self.plan.positions,
        )

    @cached_property
    def size_bytes(self) -> int:
        """Of the file: exact of codec `plain`, at most this of others."""
        return file_size(self.header, self.tables)


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """The cache of a whole video: a file if what is kept fits the model's context, else segments.

    Of each segment only header and size are kept: the plans of all together would grow with the
    video.
    """

    manifest: Manifest
    spans: tuple[Span, ...]
    headers: tuple[Header, ...]
    """Of each segment; a video that fits the context is one."""
    sizes: tuple[int, ...]
    """Of each segment's file, as `CachePlan.size_bytes`."""
    note: str | None
    """What a person should know of all its segments: of the codec, and of what is not reused."""
    block_samples: int
    plan: Callable[[Span], CachePlan]

    @property
    def is_cut(self) -> bool:
        return len(self.headers) > 1

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def minutes(self) -> float:
        return length_s(self.manifest.pts_s) / 60

    @property
    def budget_bytes(self) -> float:
        """The most that all files together may have; infinity if no budget says."""
        a_minute = self.headers[0].policy.parameters.get("budget_bytes_per_minute", float("inf"))
        return float(a_minute) * self.minutes

    @property
    def most_bytes(self) -> int:
        """Of all files when they are finished, where `size_bytes` is what room is taken for."""
        return int(min(self.size_bytes, self.budget_bytes))

    @property
    def slots(self) -> int:
        """Slots of all layouts, before anything was dropped."""
        return sum(header.layout.slots for header in self.headers)

    @property
    def tokens(self) -> dict[str, int]:
        counts = [header.shape.tokens for header in self.headers]
        return {tier: sum(count[tier] for count in counts) for tier in counts[0]}

    def segment(self, number: int) -> CachePlan:
        return self.plan(self.spans[number])

    @property
    def computed(self) -> int:
        """Tokens that enter the language model."""
        return sum(header.layout.computed for header in self.headers)

    @property
    def threshold_scale(self) -> float:
        """How many times as high as the manifest's the thresholds of change are, for a budget."""
        return self.manifest.threshold_scale

    @property
    def stored_samples(self) -> int:
        return sum(header.shape.stored_samples for header in self.headers)


def usual_block_samples(cells: int, device: torch.device) -> int:
    """Stored samples of so many cells that are best prefilled together on a device.

    Larger blocks need more memory and save little time; what does not fit is halved. The file
    answers the same, whatever the size.

    Source: the CPU, measured with one thread. Demo model, 11 stored samples of 64 cells: blocks of
    1, 2, 4, 8, 16 take 347, 237, 174, 150, 130 ms and at most 1.7, 2.5, 4.4, 6.7, 9.1 MB above the
    weights. CUDA is modelled: a GPU is busy with 2,000 tokens and more, at 7 billion weights 1 ms a
    layer beside 0.2 ms of launches, and four samples of LLaVA-1.6 hold no more than a third of what
    16 take without a cache.
    """
    tokens = _BLOCK_TOKENS.get(device.type, _BLOCK_TOKENS["cuda"])
    return max(1, min(_MOST_SAMPLES, tokens // cells))


def plan_cache(
    manifest: Manifest,
    family: Family,
    settings: CacheSettings | None = None,
    *,
    dtype: str,
    raw_dtype: str | None = None,
    identify_weights: bool = True,
    span: Span | None = None,
    calibration: "Calibration | None" = None,
) -> CachePlan:
    """Plan the cache of a manifest, or of a span of it; the weights need not be loaded.

    Args:
        settings: but for `timestamps`, which is not read; see `Family.use_timestamps`.
        dtype: type the model runs in, as torch names it.
        raw_dtype: what the FP16 tier stores, "F16", "BF16" or "F32"; None goes by `dtype`.
        identify_weights: False does without the weights' files; the size stays exact, but the
            plan cannot be run.
        span: one of `cut`; None is the whole video.
        calibration: of the model and its prompt; without, a file has its own basis, or none.

    Raises:
        ManifestError: the manifest was made for pictures of another geometry.
        ContextError: what is kept does not fit the model's context.
    """
    check_geometry(manifest, family)
    settings = settings or CacheSettings()
    part = manifest if span is None else manifest.part(span.rows)
    plan = make_plan(
        part,
        family.layout,
        context=family.decoder.context,
        positions=settings.positions,
        reuse=settings.reuse,
    )
    block_samples = settings.block_samples
    if block_samples is None:
        device = family.device if family.is_loaded else torch.device("cpu")
        block_samples = usual_block_samples(manifest.geometry.cells, device)
    shape, whole = make_shapes(
        plan, manifest, family, raw_dtype or RAW_DTYPES[dtype], settings.reuse
    )
    segment = WHOLE_VIDEO if span is None else span.segment
    first_sample = int(np.argmax(np.append(plan.sample >= 0, True)))
    choice = choose_codec(
        whole,
        settings.quality,
        segments=segment.count,
        why_fixed=why_fixed(family.config),
        calibration=calibration,
        text_ids=plan.token_ids[:first_sample],
    )
    codec, budget_bytes = _within(choice.codec, settings, manifest, len(part.pts_s))
    if segment.count > 1 and why_fixed(family.config) is None:
        # No layer alone finds what all do: batch/evaluation/RESULTS.md, "Needles in an hour".
        shape = replace(shape, index_layers=tuple(range(shape.layers)))
    header = make_header(
        plan,
        manifest,
        family,
        shape=shape,
        codec=codec,
        settings=settings,
        segment=segment,
        dtype=dtype,
        block_samples=block_samples,
        identify_weights=identify_weights,
    )
    return CachePlan(
        manifest=part,
        plan=plan,
        header=header,
        block_samples=block_samples,
        calibration=calibration if codec.calibration else None,
        codec_note=choice.note,
        budget_bytes=budget_bytes,
    )


def _within(
    codec: Codec, settings: CacheSettings, manifest: Manifest, samples: int
) -> tuple[Codec, int | None]:
    """The codec whose step is to be searched, if a bound decides it; and the bytes of a budget.

    samples: of the part of the video that it is for.
    """
    a_minute = settings.budget_bytes_per_minute
    if codec.name != "klt" or (settings.max_kl is None and a_minute is None):
        return codec, None
    searched = replace(codec, quality="custom", step=max(SEARCHED_STEPS))
    minutes = length_s(manifest.pts_s) / 60 * samples / len(manifest.pts_s)
    return searched, None if a_minute is None else int(minutes * a_minute)


def check_geometry(manifest: Manifest, family: Family) -> None:
    """Refuse a manifest that was made for pictures of another geometry.

    Raises:
        ManifestError: names both, and the command that helps.
    """
    seen = geometry_for(family.geometry, manifest.video, manifest.header.sampling)
    if manifest.geometry != seen:
        raise ManifestError(
            f"{manifest.video.name}: the manifest was made for {manifest.geometry}, "
            f"but {family.checkpoint.name} sees {seen}. Analyse the video for this "
            f"model:  batch analyze --model {family.checkpoint.name} --force --out FOLDER VIDEO"
        )
