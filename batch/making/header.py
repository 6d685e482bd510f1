"""The header of the cache that a plan will become."""

from dataclasses import replace

import numpy as np

from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import profile_name
from batch.making.plan import Plan, has_tokens, tiers_of
from batch.models import Family
from batch.settings import CacheSettings, Reuse
from batch.version import __version__
from cachefmt.header import (
    ZERO_DIGEST,
    Codec,
    Header,
    Layout,
    ManifestIdentity,
    ModelIdentity,
    PolicyIdentity,
    PromptIdentity,
    Segment,
    Shape,
    VideoIdentity,
    default_group_size,
)
from cachefmt.tiers import STORED_TIERS

TOOL = f"sali-cache {__version__}"
RAW_DTYPES = {"float32": "F16", "float16": "F16", "bfloat16": "BF16"}
"""What the FP16 tier stores for each type that a model runs in."""


def same_work(one: Header, other: Header) -> bool:
    """Whether two headers promise the same rows, whatever the names of model and video.

    Of rows within an error or a size they do not promise the codec, which is found while a file
    is written.
    """
    return _work(one) == _work(other)


def promised_kl(header: Header) -> float | None:
    """The error that a file is to keep, nats a token; None: it promises none."""
    value = header.policy.parameters.get("max_kl")
    return None if value is None else float(value)


def is_searched(header: Header) -> bool:
    """Whether the codec of a file is found while it is written."""
    return not {"max_kl", "budget_bytes_per_minute"}.isdisjoint(header.policy.parameters)


def _work(header: Header) -> tuple[object, ...]:
    model = header.model
    computed_by = (model.config_sha256, model.weights_sha256, model.dtype, header.prompt)
    made_of = (header.tool, header.video.sha256, header.manifest, header.segment, header.policy)
    codec = None if is_searched(header) else header.codec
    return (*computed_by, *made_of, header.shape, header.layout, codec)


def first_difference(there: Header, planned: Header) -> str:
    """In what the work of a file is not that of a plan, with what was got and expected."""
    got, expected = _facts(there), _facts(planned)
    for name in expected | got:
        if got.get(name) != expected.get(name):
            return f"{name}: got {got.get(name)}, expected {expected.get(name)}"
    return "where its tokens stand"


def _facts(header: Header) -> dict[str, object]:
    """What decides of rows, as people call it; what follows from other facts comes after them."""
    model, prompt, codec = header.model, header.prompt, header.codec
    temporal = TEMPORAL_PROFILES.get(header.policy.name)
    return {
        "video": f"SHA-256 {header.video.sha256[:8]}",
        "config of the model": model.config_sha256[:8],
        "weights of the model": model.weights_sha256[:8],
        "dtype": model.dtype,
        "processor": prompt.processor_sha256[:8],
        "chat template": prompt.chat_template_sha256[:8],
        "written by": header.tool,
        "profile": header.policy.name,
        **({} if temporal is None else temporal.to_dict()),
        **header.policy.parameters,
        "positions": header.layout.positions,
        "quality": codec.quality,
        "step": codec.step,
        "calibration": codec.calibration and codec.calibration[:8],
        "manifest": header.manifest.sha256[:8],
        "segments": header.segment.count,
        "tokens": dict(header.shape.tokens),
    }


def identify(
    family: Family, dtype: str, *, weights: bool = True
) -> tuple[ModelIdentity, PromptIdentity]:
    """What computes keys and values, and from which prompt; no weights are read without them."""
    checkpoint = family.checkpoint
    model = ModelIdentity(
        id=checkpoint.name,
        revision=checkpoint.revision,
        family=family.model_type,
        config_sha256=checkpoint.config_sha256,
        weights_sha256=checkpoint.weights_sha256 if weights else ZERO_DIGEST,
        dtype=dtype,
    )
    prompt = PromptIdentity(
        processor_sha256=checkpoint.processor_sha256,
        chat_template_sha256=checkpoint.chat_template_sha256,
    )
    return model, prompt


def make_header(
    plan: Plan,
    manifest: Manifest,
    family: Family,
    *,
    shape: Shape,
    codec: Codec,
    settings: CacheSettings,
    segment: Segment,
    dtype: str,
    block_samples: int,
    identify_weights: bool = True,
) -> Header:
    """Describe the cache of a plan.

    Args:
        manifest: of the whole video; segment: which span of it the plan is about.
        dtype, identify_weights: as of `plan_cache`.
    """
    model, prompt = identify(family, dtype, weights=identify_weights)
    return Header(
        tool=TOOL,
        model=model,
        prompt=prompt,
        video=VideoIdentity(sha256=manifest.video.sha256, name=manifest.video.name),
        manifest=ManifestIdentity(sha256=manifest.sha256),
        segment=segment,
        policy=_policy(manifest, settings, block_samples, family.timestamps),
        shape=shape,
        layout=Layout(
            slots=plan.slots,
            computed=plan.computed,
            positions=plan.numbering,
            next_position=plan.next_position,
        ),
        codec=codec,
    )


def make_shapes(
    plan: Plan, manifest: Manifest, family: Family, raw_dtype: str, reuse: Reuse
) -> tuple[Shape, Shape]:
    """Of a plan, without an index; and of the whole video, as if it were one segment.

    By the latter all segments decide alike what they have in common.
    """
    decoder, geometry = family.decoder, manifest.geometry
    shape = Shape(
        layers=decoder.layers,
        heads=decoder.heads,
        head_dim=decoder.head_dim,
        group_size=default_group_size(decoder.head_dim),
        raw_dtype=raw_dtype,
        position_axes=plan.positions.shape[1],
        samples=len(plan.source),
        stored_samples=len(np.unique(plan.source)),
        rows=geometry.rows,
        columns=geometry.columns,
        tokens={tier.name: count for tier, count in plan.tokens.items()},
        index_layers=(),
    )
    stored = has_tokens(manifest, reuse)
    tiers = tiers_of(manifest, reuse)[stored]
    whole = replace(
        shape,
        samples=len(stored),
        stored_samples=int(stored.sum()),
        tokens={tier.name: int((tiers == tier).sum()) for tier in STORED_TIERS},
    )
    return shape, whole


def _policy(
    manifest: Manifest, chosen: CacheSettings, block_samples: int, timestamps: bool
) -> PolicyIdentity:
    thresholds, temporal = manifest.header.thresholds, manifest.header.temporal
    name = profile_name(thresholds)
    settings = {**thresholds.to_dict(), **temporal.to_dict()}
    # A profile's numbers are those of its name and the tool; in small files they would be a tenth.
    if name is not None:
        settings = {} if temporal == TEMPORAL_PROFILES[name] else temporal.to_dict()
    asked = {
        "max_kl": chosen.max_kl,
        "budget_tokens": None if chosen.budget_tokens is None else str(chosen.budget_tokens),
        "budget_bytes_per_minute": chosen.budget_bytes_per_minute,
        "threshold_scale": None if manifest.threshold_scale == 1 else manifest.threshold_scale,
    }
    return PolicyIdentity(
        name=name or "custom",
        parameters={
            **{key: value for key, value in settings.items() if value is not None},
            "reuse": chosen.reuse,
            "block_samples": block_samples,
            "timestamps": timestamps,
            **{key: value for key, value in asked.items() if value is not None},
        },
    )
