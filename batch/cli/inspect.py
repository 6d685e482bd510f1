"""`batch inspect`: what a cache holds."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli.kinds import Kind, expect
from batch.cli.options import EXISTING, allow_open_files, json_option

if TYPE_CHECKING:
    from cachefmt import CacheFile


@click.command()
@click.argument("cache", type=EXISTING)
@json_option
def inspect(cache: Path, as_json: bool) -> None:
    """Show the header, tiers and sizes of a CACHE, file or folder; reads no keys or values."""
    expect(cache, {Kind.CACHE, Kind.SEGMENTS}, "a cache")
    from cachefmt import open_segments

    allow_open_files()
    with ExitStack() as opened:
        segments = [opened.enter_context(segment) for segment in open_segments(cache)]
        found = _describe(cache, segments)
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _lines(found):
        click.echo(line)


def _describe(path: Path, segments: "Sequence[CacheFile]") -> dict[str, Any]:
    """Identity, tokens, sizes and costs of all segments together; of each under `segments`.

    What they have in common, and what is the first one's (`layout.next_position`), stands once.
    """
    import numpy as np

    from cachefmt import STORED_TIERS
    from cachefmt.layout import COST_SECONDS

    parts = [_part(segment) for segment in segments]
    header = segments[0].header
    full, size_bytes = _sum(parts, "fp16_kv_bytes"), _sum(parts, "size_bytes")
    tiers = [tier.name for tier in STORED_TIERS]
    parts_bytes = {name: sum(part["bytes"][name] for part in parts) for name in (*tiers, "index")}
    seconds = np.sum([segment.array("cost.seconds") for segment in segments], axis=0)
    return {
        "cache": str(path),
        "size_bytes": size_bytes,
        "fp16_kv_bytes": full,
        "compression": full / size_bytes,
        **{name: _sum(parts, name) for name in ("samples", "stored_samples", "slots")},
        "tokens": {tier: sum(part["tokens"][tier] for part in parts) for tier in tiers},
        "bytes": {**parts_bytes, "other": size_bytes - sum(parts_bytes.values())},
        "index_layers": list(header.shape.index_layers),
        "seconds": dict(zip(COST_SECONDS, seconds.tolist(), strict=True)),
        **{
            part: dataclasses.asdict(getattr(header, part))
            for part in ("format", "model", "prompt", "video", "manifest", "policy", "layout")
        },
        "tool": header.tool,
        "segments": parts,
    }


def _part(cache: "CacheFile") -> dict[str, Any]:
    from cachefmt import STORED_TIERS, tensor_specs
    from cachefmt.layout import kv_bytes

    shape, layout, segment = cache.header.shape, cache.header.layout, cache.header.segment
    sizes = {name: spec.size_bytes for name, spec in tensor_specs(shape).items()}
    time_s = cache.array("sample.time_s")
    return {
        "number": segment.number,
        "first_sample": segment.first_sample,
        "first_s": float(time_s[0]) if len(time_s) else None,
        "last_s": float(time_s[-1]) if len(time_s) else None,
        "samples": shape.samples,
        "stored_samples": shape.stored_samples,
        "slots": layout.slots,
        "tokens": {tier.name: shape.tokens[tier.name] for tier in STORED_TIERS},
        "bytes": {
            **{tier.name: kv_bytes(shape, tier) for tier in STORED_TIERS},
            "index": sum(size for name, size in sizes.items() if name.startswith("index.")),
        },
        "size_bytes": cache.size_bytes,
        "fp16_kv_bytes": cache.header.fp16_kv_bytes,
    }


def _sum(parts: "Sequence[dict[str, Any]]", name: str) -> int:
    return sum(part[name] for part in parts)


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
    layers = ", ".join(map(str, found["index_layers"]))
    index = f"layers {layers}" if layers else "none: keys of this model cannot be moved"
    lines.append(f"  index    {'':>9}        {found['bytes']['index']:>15,} bytes ({index})")
    lines.append(f"  other    {'':>9}        {found['bytes']['other']:>15,} bytes")
    lines.append(
        f"size       {found['size_bytes']:,} bytes, {found['compression']:.2f}x smaller than "
        f"the FP16 KV of all slots ({found['fp16_kv_bytes']:,})"
    )
    costs = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["seconds"].items())
    lines.append(f"written in {costs} s by {found['tool']}")
    if len(found["segments"]) > 1:
        lines += [
            "",
            f"{'segment':>7} {'from':>9} {'to':>9} {'samples':>8} {'tokens':>9} {'bytes':>13}",
        ]
        lines += map(_segment_line, found["segments"])
    return lines


def _segment_line(part: dict[str, Any]) -> str:
    times = " ".join(f"{part[name]:7.1f} s" for name in ("first_s", "last_s"))
    tokens = sum(part["tokens"].values())
    return f"{part['number']:7} {times} {part['samples']:8} {tokens:9,} {part['size_bytes']:13,}"
