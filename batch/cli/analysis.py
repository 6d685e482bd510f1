"""What `analyze` and `prefill` share: analysis with the geometry of a model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli.options import make_folder

if TYPE_CHECKING:
    from batch.analysis.analyze import Analyzed, AnalyzeSettings
    from batch.video import Sampling


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
    from batch.analysis.analyze import settings_of_profile
    from batch.models import open_family

    chosen = sampling(fps, max_samples)
    geometry = open_family(model, revision=revision, offline=offline).geometry
    return settings_of_profile(profile, geometry, chosen, reference)  # type: ignore[arg-type]  # click.Choice gives str


def sampling(fps: float, max_samples: int | None) -> "Sampling":
    """How often to sample; a rate out of range is wrong usage."""
    from batch.video import Sampling

    try:
        return Sampling(rate_hz=fps, max_samples=max_samples)
    except ValueError as error:
        raise click.UsageError(f"--fps: {error}") from error


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
