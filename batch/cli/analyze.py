"""`batch analyze`: videos to manifests."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.options import (
    analysis_options,
    force_option,
    json_option,
    model_options,
    profile_option,
)
from batch.cli.progress import Summary, progress
from batch.settings import Reference

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.making.manifests import Analyzed
    from batch.video import GeometryRule


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder for the manifests.")
@profile_option("Thresholds of the tiers; can be changed later without the video.")
@click.option("--pictures", type=options.FOLDER, help="Also draw the tiers on the samples, there.")
@analysis_options
@model_options
@force_option
@json_option
def analyze(
    videos: tuple[Path, ...],
    out: Path,
    profile: str,
    pictures: Path | None,
    fps: float,
    max_samples: int | None,
    reference: Reference | None,
    jobs: int | None,
    model: str,
    revision: str | None,
    offline: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Sample VIDEOS and write a Parquet manifest of each: signals, tiers, pointers.

    Prints the path of each manifest. Only the geometry of --model is used, not its weights.
    """
    from batch.models import open_family
    from jobs.atomic import make_folder

    settings = options.analysis_settings(profile, fps, max_samples, reference)
    rule = open_family(model, revision=revision, offline=offline).geometry
    summary = Summary()
    if pictures is not None:
        make_folder(pictures)
    for result in analyze_all(videos, out, rule, settings, jobs=jobs, force=force):
        if result.manifest is None:
            summary.fail(result.error or f"{result.video}: failed")
            continue
        summary.done += not result.skipped
        summary.skipped += result.skipped
        summary.size_bytes += result.manifest.stat().st_size
        if pictures is not None:
            _draw(result.manifest, pictures)
        click.echo(_line(result.manifest, result.skipped) if as_json else result.manifest)
    summary.finish()


def analyze_all(
    videos: Sequence[Path],
    out: Path,
    rule: "GeometryRule",
    settings: "AnalysisSettings",
    *,
    jobs: int | None,
    force: bool,
) -> Iterator["Analyzed"]:
    """Analyse videos in parallel, with progress; two that would share a manifest are wrong usage.

    Args:
        jobs: processes; None: one a core.
    """
    from batch.making.manifests import make_manifests

    processes = jobs or os.cpu_count() or 1
    try:
        results = make_manifests(videos, out, rule, settings, processes=processes, force=force)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return _with_progress(results, len(videos))


def _with_progress(results: Iterator["Analyzed"], videos: int) -> Iterator["Analyzed"]:
    with progress("analyze", videos, "videos") as report:
        for result in results:
            report(1)
            if result.warning is not None:
                click.echo(f"warning: {result.warning}", err=True)
            yield result


def _line(path: Path, skipped: bool) -> str:
    from batch.analysis.manifest import Manifest
    from batch.report.tiers import tier_shares

    manifest = Manifest.read(path)
    return json.dumps(
        {
            "manifest": str(path),
            "video": manifest.video.name,
            "skipped": skipped,
            "samples": len(manifest.frame),
            "stored_samples": int(manifest.kept.sum()),
            "broken_frames": manifest.header.broken_frames,
            "tiers": tier_shares(manifest.tier),
            "seconds": manifest.analyze_seconds,
        }
    )


def _draw(path: Path, folder: Path) -> None:
    from PIL import Image

    from batch.analysis.manifest import Manifest
    from batch.report.tiers import draw_tiers

    manifest = Manifest.read(path)
    grid = manifest.geometry.rows, manifest.geometry.columns
    for sample in manifest.kept.nonzero()[0]:
        picture = draw_tiers(manifest.picture(int(sample)), manifest.tier[sample].reshape(grid))
        Image.fromarray(picture).save(folder / f"{path.stem}-{sample:05}.png")
