"""`batch status`: how far the caches of an archive have come."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli.kinds import Kind, expect
from batch.cli.options import EXISTING, json_option
from batch.cli.progress import in_line, in_words

if TYPE_CHECKING:
    from batch.archive.status import ArchiveStatus, CachesStatus


@click.command()
@click.argument("caches", type=EXISTING)
@json_option
def status(caches: Path, as_json: bool) -> None:
    """Show what is done, pending and failed in CACHES, the folder that `batch index` writes."""
    command = f"batch index ARCHIVE --model MODEL --out {caches}"
    expect(caches, {Kind.INDEX}, f"a folder of caches of batch index ({command} makes it one)")
    from batch.archive.status import read_status
    from batch.archive.store import Store

    found = read_status(Store(caches))
    for line in [json.dumps(asdict(found))] if as_json else _lines(found):
        click.echo(line)


def _lines(found: "ArchiveStatus") -> list[str]:
    lines = [
        f"files      {found.files:,}: {found.videos:,} videos, {found.other:,} others, "
        f"{found.new:,} not looked at yet"
    ]
    lines += [
        f"running    process {run.pid} on {run.host} since {run.started}, "
        f"shard {', '.join(f'{shard} of {kind}' for kind, shard in run.claims.items())}"
        for run in found.runs
    ]
    for caches in found.works:
        lines += ["", *_caches_lines(caches)]
    return lines


def _caches_lines(caches: "CachesStatus") -> list[str]:
    reasons = "".join(f"\n  {reason:15} {count:,}" for reason, count in caches.failed.items())
    size = f"{caches.cache_bytes:,} bytes of caches, {caches.manifest_bytes:,} of manifests"
    if caches.cache_bytes:
        size += f", {caches.fp16_kv_bytes / caches.cache_bytes:.2f}x smaller"
    per_hour = caches.videos_per_hour
    rate = "no rate yet" if per_hour is None else f"{per_hour:,.1f} an hour"
    to_go = f", {in_words(caches.to_go_s)} to go" if caches.to_go_s else ""
    seconds = ", ".join(f"{phase} {spent:,.1f}" for phase, spent in caches.seconds.items())
    return [
        f"work       {caches.work} with {in_line(caches.model)}",
        f"done       {caches.done:,}, and {caches.gone:,} whose video is gone",
        f"pending    {caches.pending:,}, and {caches.analyzed:,} that wait for the model",
        f"failed     {sum(caches.failed.values()):,}{reasons}",
        f"size       {size}",
        f"seconds    {seconds}",
        f"rate       {rate}{to_go}",
    ]
