"""`batch calibrate`: videos to what the caches of a model share."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.analyze import analyze_all
from batch.cli.choices import AnalysisChoice
from batch.cli.progress import Summary, progress
from batch.settings import CacheSettings, ModelSettings

if TYPE_CHECKING:
    from batch.making.calibrating import Calibrator

MOST_OF_A_FOLDER = 32
"""Videos of a folder that are taken, evenly of all in order of their paths."""


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder of the caches.")
@click.option(
    "--components",
    type=click.IntRange(1),
    help="Of a basis, at most; 1,024, or fewer where fewer carry anything.",
)
@options.profile_option("Thresholds of the tiers.")
@options.analysis_options
@options.model_options(options.run_options)
@options.json_option
def calibrate(
    videos: tuple[Path, ...],
    out: Path,
    components: int | None,
    profile: str,
    analysis: AnalysisChoice,
    model: ModelSettings,
    as_json: bool,
) -> None:
    """Fit to VIDEOS what all caches of a model in a folder share, so that they become smaller.

    VIDEOS are files like those that will come, some dozens of them, or a folder, of which 32 are
    taken. The first 32 samples of each that are stored are counted in. The calibration lies in
    --out, where `batch prefill` and `batch index` find it; caches that were written with it need
    it there. Manifests of the videos land beside it. The same command goes on after a stop.
    """
    from batch.making.calibrating import MOST_COMPONENTS, Calibrator
    from batch.models import open_model
    from cachefmt.calibration_files import calibration_path
    from jobs.atomic import make_folder

    chosen = analysis.settings(profile)
    opened = open_model(model)
    calibrator = Calibrator(opened, CacheSettings(), components=components or MOST_COMPONENTS)
    make_folder(out)
    summary = Summary()
    rule = opened.family.geometry
    analyzed = analyze_all(
        _files(videos), out, rule, chosen, summary, jobs=analysis.jobs, force=False
    )
    manifests = [manifest for _, manifest, _ in sorted(analyzed)]
    path = calibration_path(out, opened.family.checkpoint.name)
    if manifests:
        _report(path, _calibrate(calibrator, manifests, path, summary), summary, as_json=as_json)
    summary.finish()


def _files(videos: tuple[Path, ...]) -> list[Path]:
    """The videos themselves, and of each folder some; of files that share a name the first."""
    from batch.video import is_named_as_video

    found: dict[str, Path] = {}
    for video in videos:
        if not video.is_dir():
            found.setdefault(str(video), video)
            continue
        files = [file for file in sorted(video.rglob("*")) if is_named_as_video(file)]
        by_name = list({file.stem: file for file in reversed(files)}.values())[::-1]
        if not by_name:
            raise click.UsageError(f"{video}: no file in this folder is called as a video is")
        chosen = range(0, len(by_name), -(-len(by_name) // MOST_OF_A_FOLDER))
        found.update((str(by_name[number]), by_name[number]) for number in chosen)
    return list(found.values())


def _calibrate(
    calibrator: "Calibrator", manifests: list[Path], path: Path, summary: Summary
) -> bool:
    """Make the calibration; False if it is there already, or not one video could be used."""
    from batch.analysis.manifest import Manifest
    from batch.errors import BatchError
    from batch.making.calibrating import SAMPLES_OF_A_VIDEO, count_in
    from batch.making.failures import describe_failure
    from cachefmt.calibration import Calibration
    from jobs.workers import Raised

    def failed(video: Path, error: Exception) -> None:
        summary.fail(describe_failure(video, Raised(task=video, error=error)))

    def is_there(videos: set[str]) -> bool:
        """Whether the file is there, of these videos; of others it is in the way."""
        if not path.exists():
            return False
        there = Calibration.open(path).header
        if not calibrator.made(there, videos):
            raise BatchError(
                f"{path}: already holds a calibration of other videos, settings or another model "
                f"({len(there.videos)} videos, {there.videos[0].name} first), without which the "
                "caches that name it cannot be read; give it another name that ends alike, or "
                "choose another --out"
            )
        return True

    read = [Manifest.read(manifest) for manifest in manifests]
    if is_there({manifest.video.sha256 for manifest in read}):
        return False
    saved = path.with_name(f".{path.name}.part")
    calibrator.resume(saved, read)
    total = sum(min(int(manifest.kept.sum()), SAMPLES_OF_A_VIDEO) for manifest in read)
    with progress("calibrate", total, "samples") as report:
        count_in(calibrator, manifests, report=report, failed=failed, saved=saved)
    if not calibrator.videos:
        return False
    is_first = calibrator.publish(path)
    saved.unlink(missing_ok=True)
    return is_first or not is_there({video.sha256 for video in calibrator.videos})


def _report(path: Path, is_made: bool, summary: Summary, *, as_json: bool) -> None:
    from cachefmt.calibration import Calibration

    if not path.exists():
        return
    made = Calibration.open(path)
    header = made.header
    facts = {
        "calibration": str(path),
        "sha256": made.sha256,
        "skipped": not is_made,
        "videos": len(header.videos),
        "tokens": header.tokens,
        "components": list(header.shape.components),
        "size_bytes": made.size_bytes,
        "seconds": time.perf_counter() - summary.started_s,
    }
    summary.done, summary.skipped = is_made * len(header.videos), (not is_made) * len(header.videos)
    summary.size_bytes = made.size_bytes
    counts = header.shape.components
    click.echo(json.dumps(facts) if as_json else path)
    click.echo(
        f"{len(header.videos)} videos, {header.tokens:,} tokens; {sum(counts):,} components in "
        f"{len(counts)} groups of layers",
        err=True,
    )
