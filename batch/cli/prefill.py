"""`batch prefill`: manifests or videos to caches."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli import options
from batch.cli.options import (
    analysis_options,
    force_option,
    json_option,
    model_options,
    prefill_options,
    profile_option,
    run_options,
)
from batch.cli.planned import promise, report
from batch.cli.progress import progress
from batch.cli.summary import Summary

if TYPE_CHECKING:
    from batch.making import VideoPlan
    from batch.models import Family


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
    positions: str,
    pointers: str,
    timestamps: bool,
    block_samples: int | None,
    dry_run: bool,
    model: str,
    revision: str | None,
    offline: bool,
    device: str | None,
    dtype: str | None,
    attn: Any,
    force: bool,
    as_json: bool,
    **analysis: Any,
) -> None:
    """Run the model over INPUTS, manifests or videos, and write a cache of each.

    A video is analysed first; its manifest lands beside the cache. A cache is a file; of a video
    that does not fit the model's context it is a folder of segments, each of them safe as soon as
    it is there. Prints the path of each cache.
    """
    _refuse_shared_names(inputs)
    identity: Any = {"model": model, "revision": revision, "offline": offline}
    work = _open_work(
        **identity, timestamps=timestamps, device=device, dtype=dtype, attention=attn, out=out
    )
    plan: Any = {"positions": positions, "pointers": pointers, "block_samples": block_samples}
    summary = Summary()
    folder = click.get_current_context().with_resource(_folder_of_manifests(out, dry_run))
    for path in _manifests(inputs, folder, summary, force, {**analysis, **identity}, profile):
        try:
            video = work.plan(_manifest(path, profile), identify_weights=not dry_run, **plan)
            if dry_run:
                said = work.foresee(path, video, as_json=as_json)
                summary.done += 1
            else:
                written = work.write(path, video, force=force)
                said = report(work.target(path, video), video, written=written, as_json=as_json)
                summary.done += bool(written)
                summary.skipped += not written
        except Exception as error:  # the boundary of one video: named, the others go on
            summary.fail(_reason(path, error))
            continue
        summary.size_bytes += video.size_bytes
        click.echo(said)
    summary.finish()


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is done to each video, and with what."""

    family: "Family"
    dtype: str
    device: str
    load: Callable[[], None]
    out: Path

    def plan(self, manifest: Any, *, block_samples: int | None, **settings: Any) -> "VideoPlan":
        from batch.making import plan_video
        from batch.making.run import BLOCK_SAMPLES

        block_samples = block_samples or BLOCK_SAMPLES
        return plan_video(
            manifest, self.family, dtype=self.dtype, block_samples=block_samples, **settings
        )

    def target(self, path: Path, video: "VideoPlan") -> Path:
        return self.out / f"{path.stem}{video.suffix}"

    def foresee(self, path: Path, video: "VideoPlan", *, as_json: bool) -> str:
        """What a dry run says."""
        from batch.making import expect_video_memory
        from batch.models.placement import first_device

        memory = expect_video_memory(video, self.family, first_device(self.device))
        return promise(self.target(path, video), video, memory, as_json=as_json)

    def write(self, path: Path, video: "VideoPlan", *, force: bool) -> list[int]:
        """Write the cache of a video, or what is missing of it; numbers of the segments written."""
        from batch.making import prefill as run_prefill
        from batch.making import remove_replaced, remove_unfinished, segments_to_do

        target = self.target(path, video)
        numbers = segments_to_do(video, target, force=force)
        if not numbers:
            return []
        if not self.family.is_loaded:
            self.load()
        if force:  # not before: a model that cannot be loaded would leave nothing
            remove_replaced(video, target)
        if video.is_cut:
            options.make_folder(target)
        samples = sum(map(video.kept, numbers))
        with progress(video.manifest.video.name, samples, "samples") as tell:
            for number in numbers:
                file = video.path(target, number)
                run_prefill(video.segment(number), self.family, file, progress=tell)
        if video.is_cut:
            remove_unfinished(target)
        return numbers


def _open_work(
    *,
    model: str,
    revision: str | None,
    offline: bool,
    timestamps: bool,
    device: str | None,
    dtype: str | None,
    attention: Any,
    out: Path,
) -> _Work:
    import torch

    from batch.models import open_family
    from batch.models.device import choose_device, choose_dtype

    device = choose_device(device)
    family = open_family(model, revision=revision, offline=offline)
    if timestamps:
        family.use_timestamps()
    dtype = choose_dtype(dtype, device, family.checkpoint)
    load = partial(family.load, device=device, dtype=getattr(torch, dtype), attention=attention)
    return _Work(family=family, dtype=dtype, device=device, load=load, out=out)


def _reason(path: Path, error: Exception) -> str:
    """What to say of a failure; errors of ours name the file themselves."""
    from batch.errors import BatchError
    from cachefmt import CacheFileError

    if isinstance(error, BatchError | CacheFileError):
        return str(error)
    return f"{path}: {type(error).__name__}: {error}"


@contextmanager
def _folder_of_manifests(out: Path, dry_run: bool) -> Iterator[Path]:
    """Where the manifests of videos go: beside the caches, or for a dry run nowhere that stays."""
    if dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        options.make_folder(out)
        yield out


def _manifests(
    inputs: tuple[Path, ...],
    out: Path,
    summary: Summary,
    force: bool,
    analysis: dict[str, Any],
    profile: str | None,
) -> list[Path]:
    """The inputs' manifests in order of input; videos are analysed first."""
    from batch.cli.analysis import analyze_all, settings

    videos = [path for path in inputs if path.suffix != ".parquet"]
    found = {path: path for path in inputs if path.suffix == ".parquet"}
    if videos:
        jobs = analysis.pop("jobs") or os.cpu_count() or 1
        chosen = settings(profile=profile or "default", **analysis)
        with progress("analyze", len(videos), "videos") as tell:
            for result in analyze_all(videos, out, chosen, jobs, force):
                tell(1)
                if result.manifest is None:
                    summary.fail(result.error or f"{result.video}: failed")
                else:
                    found[result.video] = result.manifest
    return [found[path] for path in inputs if path in found]


def _refuse_shared_names(inputs: tuple[Path, ...]) -> None:
    taken: dict[str, Path] = {}
    for path in inputs:
        if path.stem in taken:
            raise click.UsageError(
                f"{taken[path.stem]} and {path} would both be written to {path.stem}.safetensors"
            )
        taken[path.stem] = path


def _manifest(path: Path, profile: str | None) -> Any:
    from batch.analysis.manifest import Manifest

    manifest = Manifest.read(path)
    return manifest if profile is None else manifest.with_tiers(profile)
