"""`batch analyze`: videos to manifests."""

import json
import os
from pathlib import Path

import click

from batch.cli import options
from batch.cli.options import (
    analysis_options,
    force_option,
    json_option,
    model_options,
    profile_option,
)
from batch.cli.progress import progress
from batch.cli.summary import Summary


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
    reference: str | None,
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
    from batch.cli.analysis import analyze_all, settings

    chosen = settings(
        model=model,
        revision=revision,
        offline=offline,
        profile=profile,
        fps=fps,
        max_samples=max_samples,
        reference=reference,
    )
    if pictures is not None:
        options.make_folder(pictures)
    summary = Summary()
    with progress("analyze", len(videos), "videos") as tell:
        for result in analyze_all(videos, out, chosen, jobs or os.cpu_count() or 1, force):
            tell(1)
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
