"""`batch bench`: what the cache costs and saves on this machine."""

import json
import os
from typing import Any

import click

from batch.cli.options import json_option

CPU_SIZES, GPU_SIZES = ("demo", "0.5b"), ("7b",)


@click.command()
@click.option("--suite", type=click.Choice(["tiers"]), default="tiers", show_default=True)
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
@json_option
def bench(suite: str, sizes: tuple[str, ...], repeats: int, as_json: bool) -> None:
    """Measure what the cache costs and saves, and print ratios.

    Both sides of a ratio run in turn, in one process; a ratio is the median over the repeats.
    Takes minutes; other work on the machine spoils it.
    """
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from batch.evaluation import bench as suites

    chosen = [suites.SIZES[name] for name in sizes or CPU_SIZES]
    found = suites.run_tiers(
        chosen, repeats=repeats, say=lambda line: click.echo(f"  {line}", err=True)
    )
    for line in [json.dumps(found)] if as_json else _report(found):
        click.echo(line)


def _report(found: dict[str, Any]) -> list[str]:
    from batch.evaluation.bench.tiers import RATIOS

    machine, versions = found["machine"], found["versions"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] >> 30} GiB"
    gpu = "" if machine["gpu"] is None else f", {machine['gpu']}"
    lines = [
        f"{machine['processor']}, {machine['cores']} cores{memory}{gpu}; "
        f"load before {machine['load_1min']:.1f}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
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
