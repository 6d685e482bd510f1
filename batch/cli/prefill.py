"""`batch prefill`: manifests or videos to caches."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batch.cli import options
from batch.cli.analyze import analyze_all
from batch.cli.choices import AnalysisChoice
from batch.cli.kinds import Kind, sift
from batch.cli.progress import Summary, in_line, progress, quiet_option, say
from batch.settings import CacheSettings, ModelSettings

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.analysis.manifest import Manifest
    from batch.making.cache_plan import VideoPlan
    from batch.making.destination import Destination
    from batch.making.maker import CacheMaker


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=options.FOLDER, help="Folder for the caches.")
@options.profile_option("Thresholds of the tiers; default: the manifest's own.", default=None)
@click.option("--dry-run", is_flag=True, help="Only say what would be written, and how large.")
@options.prefill_options
@options.analysis_options
@options.model_options(options.run_options)
@options.force_option
@options.json_option
@quiet_option
def prefill(
    inputs: tuple[Path, ...],
    out: Path,
    profile: str | None,
    dry_run: bool,
    cache: CacheSettings,
    analysis: AnalysisChoice,
    model: ModelSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Run the model over INPUTS, manifests or videos, and write a cache of each.

    A video is analysed first; its manifest lands beside the cache. A cache is a file; of a video
    that does not fit the model's context it is a folder of segments, each of them safe as soon as
    it is there. A calibration of the model that lies in --out makes them smaller, and is then
    needed there. Prints the path of each cache.
    """
    from jobs.atomic import check_folder, fitting_stem, make_folder
    from jobs.errors import NoSpaceError
    from jobs.locks import held
    from jobs.workers import Raised

    _refuse_shared_names(inputs)
    summary = Summary(deed="planned" if dry_run else "done")
    kinds = sift(inputs, {Kind.VIDEO, Kind.PARQUET}, "a manifest or a video", summary)
    if not dry_run:
        check_folder(out)
    chosen = analysis.settings(profile or "default", cache.reuse)
    from batch.analysis.manifest import Manifest
    from batch.making.destination import Destination
    from batch.making.failures import describe_failure
    from batch.making.maker import CacheMaker

    maker = CacheMaker(model, cache)
    folder, context = out, click.get_current_context()
    if dry_run:  # manifests of videos do not stay
        folder = Path(context.with_resource(tempfile.TemporaryDirectory()))
    else:
        make_folder(out)
        options.allow_open_files()
        context.with_resource(held(out, [fitting_stem(path.stem) for path in kinds], say))
    maker.use_calibration_in(out, identify_weights=not dry_run)
    for path in _manifests(kinds, folder, maker, chosen, summary, jobs=analysis.jobs, force=force):
        destination = Destination.named(out, fitting_stem(path.stem), force=force)
        try:
            manifest = Manifest.read(path)
            if profile is not None:
                manifest = manifest.with_tiers(profile)
            row = (_estimate if dry_run else _make)(maker, manifest, destination, as_json=as_json)
        except NoSpaceError:  # the others would have no room either
            raise
        except Exception as error:  # the boundary of one video: named, the others go on
            summary.fail(describe_failure(path, Raised(task=path, error=error)))
            continue
        summary.skipped += row.is_there
        summary.done += not row.is_there
        summary.size_bytes += row.size_bytes
        if row.note is not None and not row.is_there:
            click.echo(f"{in_line(path.stem)} {row.note}", err=True)
        click.echo(row.line)
    summary.finish()


def _refuse_shared_names(inputs: tuple[Path, ...]) -> None:
    taken: dict[str, Path] = {}
    for path in inputs:
        if path.stem in taken:
            raise click.UsageError(
                f"{taken[path.stem]} and {path} would both be written to {path.stem}.safetensors"
            )
        taken[path.stem] = path


def _manifests(
    kinds: dict[Path, Kind],
    out: Path,
    maker: "CacheMaker",
    analysis: "AnalysisSettings",
    summary: Summary,
    *,
    jobs: int | None,
    force: bool,
) -> list[Path]:
    """The inputs' manifests in order of input; videos are analysed first."""
    found = {
        path: path
        for path, kind in kinds.items()
        if kind is Kind.PARQUET or path.suffix == ".parquet"
    }
    videos = [path for path in kinds if path not in found]
    if videos:
        rule = maker.geometry
        for video, manifest, _ in analyze_all(
            videos, out, rule, analysis, summary, jobs=jobs, force=force
        ):
            found[video] = manifest
    return [found[path] for path in kinds if path in found]


class _Row(NamedTuple):
    """What is printed of an input, and counted."""

    line: str
    size_bytes: int
    note: str | None
    is_there: bool


def _make(
    maker: "CacheMaker", manifest: "Manifest", destination: "Destination", *, as_json: bool
) -> _Row:
    from batch.making.plan import has_tokens
    from jobs.disk_space import Allowance

    room = Allowance(folder=destination.file.parent, quota_left=None)
    samples = int(has_tokens(manifest, maker.settings.reuse).sum())
    with progress(manifest.video.name, samples, "samples") as report:
        made = maker.make(manifest, destination, room=room, report=report)
    codec, is_there = made.worst.codec, not made.written
    facts = {
        **_facts(made.path, made.video, made.size_bytes, made.written, skipped=is_there),
        **{"codec": codec.name, "quality": codec.quality, "step": codec.step},
        **made.measured,
    }
    line = json.dumps(facts) if as_json else str(made.path)
    return _Row(line, made.size_bytes, made.note, is_there)


def _facts(
    cache: Path, video: "VideoPlan", size_bytes: int, written: list[int], *, skipped: bool
) -> dict[str, Any]:
    """A cache as plain values with stable keys; `written` are numbers of segments."""
    return {
        "cache": str(cache),
        "written": bool(written),
        "skipped": skipped,
        "size_bytes": size_bytes,
        "codec": video.headers[0].codec.name,
        "quality": video.headers[0].codec.quality,
        "slots": video.slots,
        "computed": video.computed,
        "threshold_scale": video.threshold_scale,
        "tokens": video.tokens,
        "samples": sum(header.shape.samples for header in video.headers),
        "stored_samples": video.stored_samples,
        "positions": video.headers[0].layout.positions,
        "dtype": video.headers[0].model.dtype,
        "segments": len(video.headers),
        "segments_written": len(written),
    }


def _estimate(
    maker: "CacheMaker", manifest: "Manifest", destination: "Destination", *, as_json: bool
) -> _Row:
    """Of a dry run: size, exact or at most, and what to expect of a minute and memory."""
    video = maker.plan(manifest, identify_weights=False)
    line = _estimated(maker, video, destination.cache(video), as_json=as_json)
    return _Row(line, video.most_bytes, video.note, is_there=False)


def _estimated(maker: "CacheMaker", video: "VideoPlan", cache: Path, *, as_json: bool) -> str:
    from cachefmt.layout import kv_bytes

    memory = maker.estimate_memory(video)
    tiers_bytes = sum(kv_bytes(header.shape) for header in video.headers)
    per_minute = {
        "size_bytes": round(video.most_bytes / video.minutes),
        "tiers_bytes": round(tiers_bytes / video.minutes),
    }
    if as_json:
        parts = {**asdict(memory), "peak_bytes": memory.peak_bytes}
        facts = _facts(cache, video, video.most_bytes, [], skipped=False)
        return json.dumps({**facts, "per_minute": per_minute, "memory": parts})
    tokens = ", ".join(f"{tier} {count}" for tier, count in video.tokens.items())
    weights = "unknown" if memory.weights_bytes is None else f"{memory.weights_bytes:,}"
    segments = f" in {len(video.headers)} segments" if video.is_cut else ""
    growing = (
        "of the largest segment" if video.is_cut else f"({per_minute['tiers_bytes']:,} a minute)"
    )
    most = "" if video.headers[0].codec.name == "plain" else "at most "
    raised = ""
    if video.threshold_scale != 1:
        raised = f" with thresholds of change {video.threshold_scale:.2f} times as high"
    return (
        f"{in_line(cache)}: {most}{video.most_bytes} bytes{segments}; "
        f"tokens {tokens} of {video.slots} slots, {video.computed} computed "
        f"in {video.headers[0].model.dtype}{raised}; "
        f"a minute of video takes {most}{per_minute['size_bytes']:,} bytes; memory: "
        f"{weights} weights, {memory.tiers_bytes:,} tiers {growing}, "
        f"about {memory.block_bytes:,} a block"
    )
