"""`batch analyze`: videos to manifests."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.kinds import Kind, sift
from batch.cli.progress import Summary, progress, quiet_option
from batch.settings import Reference, Saliency

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.report.sheets import PictureChoice
    from batch.video import GeometryRule


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder for the manifests.")
@options.profile_option("Thresholds of the tiers; can be changed later without the video.")
@options.picture_options
@options.analysis_options
@options.model_options
@options.force_option
@options.json_option
@quiet_option
def analyze(
    videos: tuple[Path, ...],
    out: Path,
    profile: str,
    pictures: Path | None,
    pictures_range: tuple[float, float] | None,
    pictures_limit: int,
    pictures_apart: bool,
    fps: float,
    max_samples: int | None,
    saliency: Saliency,
    saliency_model: Path | None,
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
    from batch.errors import BatchError
    from jobs.atomic import check_folder, make_folder
    from jobs.errors import JobError

    choice = options.picture_choice(pictures, pictures_range, pictures_limit, pictures_apart)
    summary = Summary()
    found = list(sift(videos, {Kind.VIDEO}, "a video", summary))
    for folder in (out, pictures):
        if folder is not None:
            check_folder(folder)
    settings = options.analysis_settings(
        profile, fps, max_samples, reference, saliency, saliency_model
    )
    from batch.models import open_family

    rule = open_family(model, revision=revision, offline=offline).geometry
    if pictures is not None:
        make_folder(pictures)
    for _, manifest, skipped in analyze_all(
        found, out, rule, settings, summary, jobs=jobs, force=force
    ):
        if pictures is not None:
            try:
                _draw(manifest, choice, pictures)
            except (BatchError, JobError) as error:
                summary.fail(str(error))
                continue
        summary.done += not skipped
        summary.skipped += skipped
        summary.size_bytes += manifest.stat().st_size
        click.echo(_line(manifest, skipped) if as_json else manifest)
    summary.finish()


def analyze_all(
    videos: Sequence[Path],
    out: Path,
    rule: "GeometryRule",
    settings: "AnalysisSettings",
    summary: Summary,
    *,
    jobs: int | None,
    force: bool,
) -> Iterator[tuple[Path, Path, bool]]:
    """Analyse videos in parallel, with progress; failures go to the summary.

    Args:
        jobs: processes; None: one a core.

    Yields:
        A video, its manifest, and whether it was there already.
    """
    from batch.making.manifests import make_manifests
    from jobs.workers import usable_cores

    processes = jobs or usable_cores()
    try:
        results = make_manifests(videos, out, rule, settings, processes=processes, force=force)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with progress("analyze", len(videos), "videos") as report:
        for result in results:
            report(1)
            if result.warning is not None:
                click.echo(f"warning: {result.warning}", err=True)
            if result.error is not None:
                summary.fail(result.error)
            if result.manifest is not None:
                yield result.video, result.manifest, result.skipped


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


def _draw(path: Path, choice: "PictureChoice", folder: Path) -> None:
    from batch.analysis.manifest import Manifest
    from batch.report.sheets import write_pictures

    write_pictures(Manifest.read(path), choice, folder, path.stem)
