"""`batch analyze`: videos to manifests."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.choices import AnalysisChoice
from batch.cli.kinds import Kind, sift
from batch.cli.progress import Summary, progress, quiet_option
from batch.settings import ModelSettings

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.video import GeometryRule


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder for the manifests.")
@options.profile_option("Thresholds of the tiers; can be changed later without the video.")
@options.pictures_option
@options.analysis_options
@options.model_options()
@options.force_option
@options.json_option
@quiet_option
def analyze(
    videos: tuple[Path, ...],
    out: Path,
    profile: str,
    pictures: Path | None,
    analysis: AnalysisChoice,
    model: ModelSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Sample VIDEOS and write a Parquet manifest of each: signals, tiers, pointers.

    Prints the path of each manifest. Only the geometry of --model is used, not its weights.
    """
    from batch.errors import BatchError
    from jobs.atomic import check_folder
    from jobs.errors import JobError

    summary = Summary()
    found = list(sift(videos, {Kind.VIDEO}, "a video", summary))
    check_folder(out)
    if pictures is not None:
        check_folder(pictures)
    settings = analysis.settings(profile)
    from batch.analysis.manifest import Manifest
    from batch.models import open_family
    from batch.report.sheets import write_sheet

    family = open_family(model.name, revision=model.revision, offline=model.offline)
    for _, manifest, skipped in analyze_all(
        found, out, family.geometry, settings, summary, jobs=analysis.jobs, force=force
    ):
        if pictures is not None:
            try:
                read = Manifest.read(manifest)
                write_sheet(read, read.tier, pictures / f"{manifest.stem}.png")
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
