"""`batch bench`: what the cache costs and saves on this machine."""

import json
import os

import click

from batch.cli.options import dtype_option, json_option
from batch.evaluation.bench.report import MEASUREMENTS, report


@click.command()
@click.option(
    "--suite",
    type=click.Choice(["tiers", "archive", "long"]),
    default="tiers",
    show_default=True,
    help="What is measured: a cache against none, an archive's runs, or an hour of video.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(["demo", "0.5b", "7b"]),
    help="Repeat for more; default demo and 0.5b, as 7b needs CUDA.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(MEASUREMENTS)),
    help="Measure this alone; repeat for more. Default: all.",
)
@click.option("--device", help="Of --suite tiers: cpu or cuda; default: cuda if there is one.")
@dtype_option
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Of each comparison; fewer where they take minutes.",
)
@click.option(
    "--minutes", type=click.IntRange(3), help="Length of the videos of --suite long; default 60."
)
@json_option
def bench(
    suite: str,
    sizes: tuple[str, ...],
    only: tuple[str, ...],
    device: str | None,
    dtype: str | None,
    repeats: int,
    minutes: int | None,
    as_json: bool,
) -> None:
    """Measure what the cache costs and saves, and print ratios; or what an archive or hours cost.

    Both sides of a ratio run in turn; a ratio is the median over the repeats. Takes minutes;
    other work on the machine spoils it.
    """
    of_tiers = {"--size": sizes, "--only": only, "--device": device, "--dtype": dtype}
    for option, value in of_tiers.items():
        if value and suite != "tiers":
            raise click.UsageError(f"{option} goes with --suite tiers")
    if minutes and suite != "long":
        raise click.UsageError("--minutes goes with --suite long")
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")

    def log(line: str) -> None:
        click.echo(f"  {line}", err=True)

    if suite == "tiers":
        from batch.evaluation.bench.tiers import run_tiers
        from batch.evaluation.bench.workload import SIZES
        from batch.settings import ModelSettings

        found = run_tiers(
            [SIZES[name] for name in sizes or ("demo", "0.5b")],
            repeats=repeats,
            log=log,
            only=only,
            where=ModelSettings(device=device, dtype=dtype),
        )
    elif suite == "archive":
        from batch.evaluation.bench.archive import run_archive

        found = run_archive(repeats=repeats, log=log)
    else:
        from batch.evaluation.bench.long import MINUTES, run_long

        found = run_long(minutes=minutes or MINUTES, log=log)
    click.echo(json.dumps(found) if as_json else "\n".join(report(found)))
