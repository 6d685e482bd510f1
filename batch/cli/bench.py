"""`batch bench`: what the cache costs and saves on this machine."""

import json
import os
from typing import Any

import click

from batch.cli.options import json_option

CPU_SIZES, GPU_SIZES = ("demo", "0.5b"), ("7b",)
COMMANDS = ("plan", "catalogue", "no_op", "status")


@click.command()
@click.option(
    "--suite", type=click.Choice(["tiers", "archive", "long"]), default="tiers", show_default=True
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(CPU_SIZES + GPU_SIZES),
    help="Repeat for more; default demo and 0.5b, as 7b needs CUDA.",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Of each comparison."
)
@click.option(
    "--minutes",
    type=click.IntRange(3),
    help="Length of the videos of --suite long; default 60.",
)
@json_option
def bench(
    suite: str, sizes: tuple[str, ...], repeats: int, minutes: int | None, as_json: bool
) -> None:
    """Measure what the cache costs and saves, and print ratios; or what an archive or hours cost.

    Both sides of a ratio run in turn; a ratio is the median over the repeats. Takes minutes;
    other work on the machine spoils it.
    """
    if sizes and suite != "tiers":
        raise click.UsageError("--size goes with --suite tiers")
    if minutes and suite != "long":
        raise click.UsageError("--minutes goes with --suite long")
    if suite == "archive":
        _bench_archive(repeats, as_json)
        return
    if suite == "long":
        _bench_long(minutes, as_json)
        return
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from batch.evaluation.bench.sizes import SIZES
    from batch.evaluation.bench.tiers import run_tiers

    chosen = [SIZES[name] for name in sizes or CPU_SIZES]
    found = run_tiers(chosen, repeats=repeats, say=_say)
    for line in [json.dumps(found)] if as_json else _report(found):
        click.echo(line)


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _bench_archive(repeats: int, as_json: bool) -> None:
    from batch.evaluation.bench.archive import run_archive

    found = run_archive(repeats=repeats, say=_say)
    for line in [json.dumps(found)] if as_json else _report_archive(found):
        click.echo(line)


def _bench_long(minutes: int | None, as_json: bool) -> None:
    from batch.cli.bench_long import report_long
    from batch.evaluation.bench.long import MINUTES, run_long

    found = run_long(minutes=minutes or MINUTES, say=_say)
    lines = [*_report_machine(found), *report_long(found["long"])]
    for line in [json.dumps(found)] if as_json else lines:
        click.echo(line)


def _report_archive(found: dict[str, Any]) -> list[str]:
    workers = found["workers"]
    lines = [
        *_report_machine(found),
        f"{found['films'] * found['variants']} films of {found['samples']} samples, "
        f"median of {found['repeats']}",
        "",
        f"analysis       {workers['analyze_seconds_1']:.1f} s by one worker, "
        f"{workers['analyze_seconds_2']:.1f} s by two: {workers['speedup']:.2f}x",
        f"model idle     {workers['idle_share']:.1%} of its time although a manifest was ready",
        "",
        f"{'records':>10}" + "".join(f"{name:>20}" for name in COMMANDS),
    ]
    for count, costs in found["growth"].items():
        cells = (
            f"{cost['seconds']:8.1f} s {cost['peak_bytes'] / 1e6:5.0f} MB"
            for cost in (costs[name] for name in COMMANDS)
        )
        lines.append(f"{int(count):10,}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


def _report_machine(found: dict[str, Any]) -> list[str]:
    machine, versions = found["machine"], found["versions"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] >> 30} GiB"
    gpu = "" if machine["gpu"] is None else f", {machine['gpu']}"
    return [
        f"{machine['processor']}, {machine['cores']} cores{memory}{gpu}; "
        f"load before {machine['load_1min']:.1f}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]


def _report(found: dict[str, Any]) -> list[str]:
    from batch.evaluation.bench.tiers import RATIOS

    lines = [
        *_report_machine(found),
        f"profile {found['profile']}, median of {found['repeats']} in turn",
        "",
        f"{'':26}" + "".join(f"{size:>10}" for size in found["ratios"]),
    ]
    for name, meaning in RATIOS.items():
        values = "".join(f"{ratios[name]:10.3f}" for ratios in found["ratios"].values())
        lines.append(f"{name:26}{values}  {meaning}")
    lines.append("")
    for size, figures in found["figures"].items():
        tokens = sum(figures["tokens"].values())
        lines.append(
            f"{size}: {figures['about']}; {figures['dtype']} on {figures['device']}; "
            f"{figures['films']} film(s) of {figures['samples']} "
            f"samples; the first: {tokens} of {figures['slots']} slots stored, "
            f"{figures['cache_bytes']:,} bytes"
        )
    return lines
