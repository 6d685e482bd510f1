"""`batch prefill`: manifests or videos to caches."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli import options
from batch.cli.analyze import analyze_all
from batch.cli.options import (
    analysis_options,
    force_option,
    json_option,
    model_options,
    prefill_options,
    profile_option,
    run_options,
)
from batch.cli.progress import Summary, progress
from batch.settings import (
    Attention,
    CacheSettings,
    ModelSettings,
    Pointers,
    Positions,
    Reference,
)

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.analysis.manifest import Manifest
    from batch.making.cache_plan import VideoPlan
    from batch.making.destination import Destination
    from batch.making.maker import CacheMaker, MadeCache


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder for the caches.")
@profile_option("Thresholds of the tiers; default: the manifest's own.", default=None)
@click.option("--dry-run", is_flag=True, help="Only say what would be written, to the byte.")
@prefill_options
@analysis_options
@model_options
@run_options
@force_option
@json_option
def prefill(
    inputs: tuple[Path, ...],
    out: Path,
    profile: str | None,
    dry_run: bool,
    positions: Positions,
    pointers: Pointers,
    timestamps: bool,
    block_samples: int | None,
    fps: float,
    max_samples: int | None,
    reference: Reference | None,
    jobs: int | None,
    model: str,
    revision: str | None,
    offline: bool,
    device: str | None,
    dtype: str | None,
    attn: Attention,
    force: bool,
    as_json: bool,
) -> None:
    """Run the model over INPUTS, manifests or videos, and write a cache of each.

    A video is analysed first; its manifest lands beside the cache. A cache is a file; of a video
    that does not fit the model's context it is a folder of segments, each of them safe as soon as
    it is there. Prints the path of each cache.
    """
    from batch.making.destination import Destination
    from batch.making.maker import CacheMaker

    _refuse_shared_names(inputs)
    analysis = options.analysis_settings(profile or "default", fps, max_samples, reference)
    maker = CacheMaker(
        ModelSettings(
            name=model,
            revision=revision,
            offline=offline,
            device=device,
            dtype=dtype,
            attention=attn,
        ),
        CacheSettings(
            positions=positions,
            pointers=pointers,
            timestamps=timestamps,
            block_samples=block_samples,
        ),
    )
    summary = Summary()
    folder = click.get_current_context().with_resource(_folder_of_manifests(out, dry_run))
    for path in _manifests(inputs, folder, maker, analysis, summary, jobs=jobs, force=force):
        destination = Destination.named(out, path.stem, force=force)
        try:
            if dry_run:
                line, size_bytes = _estimate(maker, path, profile, destination, as_json=as_json)
                summary.done += 1
            else:
                made = _make(maker, path, profile, destination)
                line, size_bytes = _describe(made, as_json=as_json), made.video.size_bytes
                summary.done += bool(made.written)
                summary.skipped += not made.written
        except Exception as error:  # the boundary of one video: named, the others go on
            summary.fail(_reason(path, error))
            continue
        summary.size_bytes += size_bytes
        click.echo(line)
    summary.finish()


def _refuse_shared_names(inputs: tuple[Path, ...]) -> None:
    taken: dict[str, Path] = {}
    for path in inputs:
        if path.stem in taken:
            raise click.UsageError(
                f"{taken[path.stem]} and {path} would both be written to {path.stem}.safetensors"
            )
        taken[path.stem] = path


@contextmanager
def _folder_of_manifests(out: Path, dry_run: bool) -> Iterator[Path]:
    """Where the manifests of videos go: beside the caches, or for a dry run nowhere that stays."""
    from jobs.atomic import make_folder

    if dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        make_folder(out)
        yield out


def _manifests(
    inputs: tuple[Path, ...],
    out: Path,
    maker: "CacheMaker",
    analysis: "AnalysisSettings",
    summary: Summary,
    *,
    jobs: int | None,
    force: bool,
) -> list[Path]:
    """The inputs' manifests in order of input; videos are analysed first."""
    videos = [path for path in inputs if path.suffix != ".parquet"]
    found = {path: path for path in inputs if path.suffix == ".parquet"}
    if videos:
        for result in analyze_all(videos, out, maker.geometry, analysis, jobs=jobs, force=force):
            if result.manifest is None:
                summary.fail(result.error or f"{result.video}: failed")
            else:
                found[result.video] = result.manifest
    return [found[path] for path in inputs if path in found]


def _make(
    maker: "CacheMaker", path: Path, profile: str | None, destination: "Destination"
) -> "MadeCache":
    from jobs.disk_space import Allowance

    manifest = _read(path, profile)
    room = Allowance(folder=destination.file.parent, quota_left=None)
    with progress(manifest.video.name, int(manifest.kept.sum()), "samples") as report:
        return maker.make(manifest, destination, room=room, report=report)


def _read(path: Path, profile: str | None) -> "Manifest":
    from batch.analysis.manifest import Manifest

    manifest = Manifest.read(path)
    return manifest if profile is None else manifest.with_tiers(profile)


def _reason(path: Path, error: Exception) -> str:
    """What to print of a failure; errors of ours name the file themselves."""
    from batch.making.failures import describe_error, is_ours

    return describe_error(error) if is_ours(error) else f"{path}: {describe_error(error)}"


def _describe(made: "MadeCache", *, as_json: bool) -> str:
    """The line of a cache that is there now."""
    if not as_json:
        return str(made.path)
    is_there = not made.written
    return json.dumps(_facts(made.path, made.video, written=made.written, skipped=is_there))


def _facts(cache: Path, video: "VideoPlan", *, written: list[int], skipped: bool) -> dict[str, Any]:
    """A cache as plain values with stable keys.

    Args:
        written: numbers of the segments that this run wrote.
    """
    return {
        "cache": str(cache),
        "written": bool(written),
        "skipped": skipped,
        "size_bytes": video.size_bytes,
        "slots": video.slots,
        "tokens": video.tokens,
        "samples": sum(header.shape.samples for header in video.headers),
        "stored_samples": int(video.manifest.kept.sum()),
        "positions": video.headers[0].layout.positions,
        "segments": len(video.headers),
        "segments_written": len(written),
    }


def _estimate(
    maker: "CacheMaker",
    path: Path,
    profile: str | None,
    destination: "Destination",
    *,
    as_json: bool,
) -> tuple[str, int]:
    """What a dry run prints: the exact size, and what to expect of a minute and of memory."""
    from cachefmt.layout import kv_bytes

    video = maker.plan(_read(path, profile), identify_weights=False)
    memory = maker.estimate_memory(video)
    minutes = video.manifest.header.decoded_s / 60
    tiers_bytes = sum(kv_bytes(header.shape) for header in video.headers)
    per_minute = {
        "size_bytes": round(video.size_bytes / minutes),
        "tiers_bytes": round(tiers_bytes / minutes),
    }
    cache = destination.cache(video)
    facts = _facts(cache, video, written=[], skipped=False)
    if as_json:
        parts = {
            "weights_bytes": memory.weights_bytes,
            "tiers_bytes": memory.tiers_bytes,
            "block_bytes": memory.block_bytes,
            "peak_bytes": memory.peak_bytes,
        }
        line = json.dumps({**facts, "per_minute": per_minute, "memory": parts})
        return line, video.size_bytes
    tokens = ", ".join(f"{tier} {count}" for tier, count in video.tokens.items())
    weights = "unknown" if memory.weights_bytes is None else f"{memory.weights_bytes:,}"
    segments = f" in {len(video.headers)} segments" if video.is_cut else ""
    growing = (
        "of the largest segment" if video.is_cut else f"({per_minute['tiers_bytes']:,} a minute)"
    )
    line = (
        f"{cache}: {video.size_bytes} bytes{segments}; tokens {tokens} of {video.slots} slots; "
        f"a minute of video takes {per_minute['size_bytes']:,} bytes; memory: "
        f"{weights} weights, {memory.tiers_bytes:,} tiers {growing}, "
        f"about {memory.block_bytes:,} a block"
    )
    return line, video.size_bytes
