"""`batch inspect`: what a cache file holds."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli.options import EXISTING_FILE, json_option

if TYPE_CHECKING:
    from cachefmt import CacheFile


@click.command()
@click.argument("cache", type=EXISTING_FILE)
@json_option
def inspect(cache: Path, as_json: bool) -> None:
    """Show the header, tiers and sizes of a CACHE; reads no keys or values."""
    from cachefmt import CacheFile

    with CacheFile.open(cache) as opened:
        found = describe(opened)
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _lines(found):
        click.echo(line)


def describe(cache: "CacheFile") -> dict[str, Any]:
    """Identity, tokens and bytes of each tier, sizes and costs, as plain values."""
    from cachefmt import STORED_TIERS, tensor_specs
    from cachefmt.layout import COST_SECONDS

    header = cache.header
    sizes = {name: spec.size_bytes for name, spec in tensor_specs(header.shape).items()}
    in_tier = {
        tier.name: sum(size for name, size in sizes.items() if f".{tier.name.lower()}" in name)
        for tier in STORED_TIERS
    }
    source = cache.array("sample.source")
    full = (
        4 * header.layout.slots * header.shape.layers * header.shape.heads * header.shape.head_dim
    )
    return {
        "cache": str(cache.path),
        "size_bytes": cache.size_bytes,
        "fp16_kv_bytes": full,
        "compression": full / cache.size_bytes,
        "samples": header.shape.samples,
        "stored_samples": int((source == range(len(source))).sum()),
        "slots": header.layout.slots,
        "tokens": {tier.name: header.shape.tokens[tier.name] for tier in STORED_TIERS},
        "bytes": {**in_tier, "other": cache.size_bytes - sum(in_tier.values())},
        "seconds": dict(zip(COST_SECONDS, cache.array("cost.seconds").tolist(), strict=True)),
        **{
            part: dataclasses.asdict(getattr(header, part))
            for part in ("format", "model", "prompt", "video", "manifest", "policy", "layout")
        },
        "tool": header.tool,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    model, video, policy = found["model"], found["video"], found["policy"]
    lines = [
        f"video      {video['name']} ({video['sha256'][:12]})",
        f"model      {model['id']} ({model['family']}, {model['dtype']}, "
        f"weights {model['weights_sha256'][:12]})",
        f"policy     {policy['name']}",
        f"samples    {found['samples']}, {found['stored_samples']} stored, "
        f"{found['samples'] - found['stored_samples']} pointers",
        f"slots      {found['slots']}, {sum(found['tokens'].values())} stored, "
        f"positions {found['layout']['positions']}",
    ]
    for tier, tokens in found["tokens"].items():
        lines.append(f"  {tier:9}{tokens:>9,} tokens {found['bytes'][tier]:>15,} bytes")
    lines.append(f"  other    {'':>9}        {found['bytes']['other']:>15,} bytes")
    lines.append(
        f"size       {found['size_bytes']:,} bytes, {found['compression']:.2f}x smaller than "
        f"the FP16 KV of all slots ({found['fp16_kv_bytes']:,})"
    )
    costs = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["seconds"].items())
    lines.append(f"written in {costs} s by {found['tool']}")
    return lines
