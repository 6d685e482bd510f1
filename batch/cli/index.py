"""`batch index`: a whole archive, again and again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.archive.request import Phase, Request
from batch.cli import options
from batch.cli.choices import AnalysisChoice
from batch.cli.engines import engine_options, index_stages
from batch.cli.kinds import Kind, expect
from batch.cli.progress import PARTIAL, progress, quiet_option
from batch.settings import CacheSettings, ModelSettings
from jobs.disk_space import parse_size
from jobs.errors import BusyError
from jobs.shards import Shard
from jobs.stopping import STOPPED, stop_on_signals
from jobs.workers import usable_cores

if TYPE_CHECKING:
    from batch.cli.reporting import Reporter


@click.command()
@click.argument("archive", type=options.EXISTING)
@click.option("--out", required=True, type=options.FOLDER, help="Folder of caches and records.")
@options.profile_option("Thresholds of the tiers.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="As torch names it; repeat it for a process and a copy of the model on each.",
)
@click.option(
    "--phase",
    type=click.Choice([phase.value for phase in Phase]),
    default="all",
    show_default=True,
    help="Only a part: find videos, write manifests, write caches.",
)
@click.option(
    "--shard",
    type=options.Parsed("index/count", Shard.parse),
    default="0/1",
    show_default=True,
    help="Only this task's share of a phase, 0/16 to 15/16.",
)
@click.option("--rehash", is_flag=True, help="Read all files again, even those that look the same.")
@click.option("--retry-failed", is_flag=True, help="Do again what failed, though it is unchanged.")
@click.option(
    "--max-bytes",
    type=options.Parsed("size", parse_size),
    help="Stop before the folder of caches holds more, as 500G.",
)
@click.option(
    "--metrics-file", type=click.Path(dir_okay=False, path_type=Path), help="For Prometheus."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of what is said on stderr.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only estimate what it would take, from a look at each file and the work on a few.",
)
@options.prefill_options
@options.analysis_options
@options.model_options(options.dtype_option, options.attn_option)
@options.json_option
@engine_options(
    index_stages,
    folder="out",
    of_tasks="parts of the work before prefill, each of --jobs processes.",
    of_gpu_tasks="parts of prefill, each on GPUs of its own.",
)
@quiet_option
def index(
    archive: Path,
    out: Path,
    devices: tuple[str, ...],
    phase: str,
    shard: Shard,
    rehash: bool,
    retry_failed: bool,
    max_bytes: int | None,
    dry_run: bool,
    metrics_file: Path | None,
    log_format: str,
    profile: str,
    cache: CacheSettings,
    analysis: AnalysisChoice,
    model: ModelSettings,
    as_json: bool,
) -> None:
    """Turn every video below ARCHIVE into a cache; run it every night.

    What is done is skipped, whatever it is called now; what is new or changed is done; one bad
    video is recorded and the others go on. Prints the path of each cache. Exit codes: 0 all
    videos have a cache, 3 some cannot (batch status says which), 75 stopped by a signal or
    another run is at work: the same command goes on.
    """
    from jobs.atomic import check_folder, make_folder

    _check(archive, out, phase, shard, dry_run=dry_run)
    check_folder(out)
    chosen = analysis.settings(profile, cache.reuse)
    from batch.archive.identity import IndexSettings
    from batch.cli.reporting import Reporter

    if not dry_run:
        make_folder(out)
    jobs, threads = _share_cores(phase, analysis.jobs, models=len(devices) or 1)
    request = Request(
        archive=archive.resolve(),
        out=out.resolve(),
        settings=IndexSettings(model=model, analysis=chosen, cache=cache),
        phase=Phase(phase),
        shard=shard,
        jobs=jobs,
        devices=devices or (None,),
        threads=threads,
        rehash=rehash,
        retry_failed=retry_failed,
        max_bytes=max_bytes,
    )
    if dry_run:
        _estimate(request, as_json=as_json)
        return
    _run(request, Reporter(log_format, as_json=as_json, metrics_file=metrics_file))


def _check(archive: Path, out: Path, phase: str, shard: Shard, *, dry_run: bool) -> None:
    """Wrong usage if these do not go together."""
    expect(archive, {Kind.FOLDER, Kind.EMPTY_FOLDER, Kind.CACHE_FOLDER}, "a folder of videos")
    if dry_run and phase != "all":
        raise click.UsageError("--dry-run goes with all phases")
    if phase == "all" and shard != Shard():
        raise click.UsageError("--shard goes with --phase identify, analyze or prefill")
    if archive.resolve() == out.resolve():
        raise click.UsageError("--out is ARCHIVE itself; give another folder, which may lie in it")


def _share_cores(phase: str, jobs: int | None, *, models: int) -> tuple[int, int]:
    """Processes that open videos, and threads of each process with a model."""
    cores = usable_cores()
    both = phase == "all"
    jobs = jobs or max(1, cores - models if both else cores)
    return jobs, max(1, (cores - jobs if both else cores) // models)


def _estimate(request: Request, *, as_json: bool) -> None:
    from batch.archive.estimating import estimate
    from batch.cli.estimate import lines_of

    found = estimate(request, progress)
    click.echo(json.dumps(asdict(found)) if as_json else "\n".join(lines_of(found, request)))


def _run(request: Request, reporter: "Reporter") -> None:
    from batch.archive.run import index as run_index

    with reporter:
        with stop_on_signals() as stop:
            try:
                tally = run_index(request, stop, reporter)
            except BusyError as error:
                reporter.warned(str(error))
                raise SystemExit(STOPPED) from error
        reporter.end(tally, stop)
    if stop.is_asked:
        raise SystemExit(STOPPED)
    if tally.failures:
        raise SystemExit(PARTIAL)
