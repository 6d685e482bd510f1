"""What settings mean for the model at hand: settings, and the identity that follows from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.header import VERSION as MANIFEST_VERSION
from batch.archive.model_facts import ModelFacts, rule_facts
from batch.archive.settings import IndexSettings
from batch.video import GeometryRule
from cachefmt import FormatVersion


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Settings as plain values, and the ID that they are known by.

    `about` is for people and changes nothing: what the model was called.
    """

    settings: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        text = json.dumps(self.settings, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """All that is known of it."""
        return {**self.about, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of every video; `caches` is None if only analysis is."""

    analysis: AnalysisSettings
    rule: GeometryRule
    manifests: Spec
    caches: Spec | None


def work_of(chosen: IndexSettings, model: ModelFacts) -> Work:
    """Put the chosen settings and a model together."""
    analysis, cache = chosen.analysis, chosen.cache
    about = {"model": model.name, "revision": model.revision}
    geometry = rule_facts(model.geometry)
    settings = {**asdict(analysis), "geometry": geometry, "manifest_version": MANIFEST_VERSION}
    manifests = Spec(settings=settings, about=about)
    if model.weights_sha256 is None:
        return Work(analysis=analysis, rule=model.geometry, manifests=manifests, caches=None)
    version = FormatVersion()
    prefill = {
        "analysis": manifests.id,
        "config_sha256": model.config_sha256,
        "weights_sha256": model.weights_sha256,
        "processor_sha256": model.processor_sha256,
        "chat_template_sha256": model.chat_template_sha256,
        "dtype": model.dtype,
        "positions": cache.positions,
        "pointers": cache.pointers,
        "timestamps": cache.timestamps,
        "block_samples": model.block_samples,
        "format": f"{version.major}.{version.minor}",
    }
    caches = Spec(settings=prefill, about=about)
    return Work(analysis=analysis, rule=model.geometry, manifests=manifests, caches=caches)
