"""What `analyze` and `prefill` share: analysis with the geometry of a model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli.options import make_folder

if TYPE_CHECKING:
    from batch.analysis.analyze import Analyzed, AnalyzeSettings


def settings(
    *,
    model: str,
    revision: str | None,
    offline: bool,
    profile: str,
    fps: float,
    max_samples: int | None,
    reference: str | None,
) -> "AnalyzeSettings":
    """Settings of an analysis in the geometry of a checkpoint."""
    from batch.analysis.analyze import AnalyzeSettings
    from batch.analysis.temporal import TEMPORAL_PROFILES
    from batch.analysis.tiers import PROFILES
    from batch.models import open_family
    from batch.video import Sampling

    try:
        sampling = Sampling(rate_hz=fps, max_samples=max_samples)
    except ValueError as error:
        raise click.UsageError(f"--fps: {error}") from error
    geometry = open_family(model, revision=revision, offline=offline).geometry
    temporal = TEMPORAL_PROFILES[profile]
    if reference is not None:
        temporal = replace(temporal, reference=reference)  # type: ignore[arg-type]  # click.Choice gives str
    return AnalyzeSettings(
        geometry=geometry,
        sampling=sampling,
        temporal=temporal,
        thresholds=PROFILES[profile],
    )


def analyze_all(
    videos: Sequence[Path], out: Path, chosen: "AnalyzeSettings", jobs: int, force: bool
) -> Iterator["Analyzed"]:
    """Analyse videos in parallel; two that would share a manifest are wrong usage."""
    from batch.analysis.analyze import analyze_videos, manifest_paths

    try:
        manifest_paths(videos, out)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    make_folder(out)
    processes = min(jobs, len(videos))
    for result in analyze_videos(videos, out, settings=chosen, processes=processes, force=force):
        if result.warning is not None:
            click.echo(f"warning: {result.warning}", err=True)
        yield result
