"""`batch inspect`: what a cache holds."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli.kinds import Kind, expect
from batch.cli.options import EXISTING, allow_open_files, json_option, pictures_option
from batch.cli.progress import in_line

if TYPE_CHECKING:
    from cachefmt import CacheFile


@click.command()
@click.argument("cache", type=EXISTING)
@pictures_option
@json_option
def inspect(cache: Path, pictures: Path | None, as_json: bool) -> None:
    """Show what a CACHE, file or folder, is of, its codec, fidelity and sizes; reads no rows.

    Pictures are drawn from its manifest, beside it or in its archive; the video is not needed.
    """
    expect(cache, {Kind.CACHE, Kind.SEGMENTS}, "a cache")
    from batch.analysis.finding import find_manifest
    from batch.report.sheets import write_sheet
    from batch.report.videos import VideoReport
    from cachefmt import open_segments

    allow_open_files()
    with ExitStack() as opened:
        segments = [opened.enter_context(segment) for segment in open_segments(cache)]
        found = _describe(cache, segments)
        if pictures is not None:
            manifest = find_manifest(cache, segments[0].header)
            states = VideoReport.of(manifest, segments, name=str(cache)).states
            write_sheet(manifest, states, pictures / f"{cache.stem}.png")
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

    from batch.video import length_s
    from cachefmt import STORED_TIERS
    from cachefmt.layout import COST_SECONDS

    parts = [_part(segment) for segment in segments]
    header = segments[0].header
    full, size_bytes = _sum(parts, "fp16_kv_bytes"), _sum(parts, "size_bytes")
    seconds = np.sum([segment.cost_seconds for segment in segments], axis=0)
    time_s = np.concatenate([segment.tables.time_s for segment in segments])
    return {
        "cache": str(path),
        "size_bytes": size_bytes,
        "fp16_kv_bytes": full,
        "compression": full / size_bytes,
        "bytes_per_minute": round(60 * size_bytes / length_s(time_s)) if len(time_s) else None,
        **{name: _sum(parts, name) for name in ("samples", "stored_samples", "slots", "computed")},
        "tokens": {
            tier.name: sum(part["tokens"][tier.name] for part in parts) for tier in STORED_TIERS
        },
        "bytes": {kind: sum(part["bytes"][kind] for part in parts) for kind in parts[0]["bytes"]},
        "groups": _groups(parts),
        "codec": parts[0]["codec"],
        "fidelity": _worst(parts),
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
    from cachefmt import STORED_TIERS
    from cachefmt.layout import COST, INDEX, TABLES, basis_name, block_name

    header, time_s = cache.header, cache.tables.time_s
    shape, there = header.shape, set(cache.names)

    def size_of(name: str) -> int:
        return cache.tensor_bytes(name) if name in there else 0

    groups = range(header.group_count)
    blocks = [
        [size_of(block_name(number, group)) for group in groups]
        for number in range(header.block_count)
    ]
    bases = [size_of(basis_name(group)) for group in groups]
    return {
        "number": header.segment.number,
        "first_sample": header.segment.first_sample,
        "first_s": float(time_s[0]) if len(time_s) else None,
        "last_s": float(time_s[-1]) if len(time_s) else None,
        "samples": shape.samples,
        "stored_samples": shape.stored_samples,
        "slots": header.layout.slots,
        "computed": header.layout.computed,
        "tokens": {tier.name: shape.tokens[tier.name] for tier in STORED_TIERS},
        "bytes": {
            "header": cache.header_size_bytes,
            "tables": size_of(COST) + size_of(TABLES),
            "index": size_of(INDEX),
            "bases": sum(bases),
            "blocks": sum(map(sum, blocks)),
        },
        "groups": [
            {
                "layers": [layers.start, layers.stop],
                "basis": bases[group],
                "blocks": sum(block[group] for block in blocks),
            }
            for group, layers in enumerate(header.groups())
        ],
        "blocks": blocks,
        "codec": dataclasses.asdict(header.codec),
        "fidelity": None if header.fidelity is None else dataclasses.asdict(header.fidelity),
        "size_bytes": cache.size_bytes,
        "fp16_kv_bytes": header.fp16_kv_bytes,
    }


def _groups(parts: "Sequence[dict[str, Any]]") -> list[dict[str, Any]]:
    """Bytes of each group of layers in all segments, which may be cut into other groups."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for group in (group for part in parts for group in part["groups"]):
        first, stop = group["layers"]
        held = found.setdefault((first, stop), {"layers": [first, stop], "basis": 0, "blocks": 0})
        held["basis"] += group["basis"]
        held["blocks"] += group["blocks"]
    return list(found.values())


def _worst(parts: "Sequence[dict[str, Any]]") -> dict[str, Any] | None:
    """What was measured of the segment with the largest error; None: nothing was."""
    measured = [part["fidelity"] for part in parts if part["fidelity"] is not None]
    return max(measured, key=lambda found: float(found["kl"]), default=None)


def _sum(parts: "Sequence[dict[str, Any]]", name: str) -> int:
    return sum(part[name] for part in parts)


def _lines(found: dict[str, Any]) -> list[str]:
    model, video, policy = found["model"], found["video"], found["policy"]
    tokens = ", ".join(f"{tier} {count:,}" for tier, count in found["tokens"].items())
    costs = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["seconds"].items())
    a_minute = found["bytes_per_minute"]
    lines = [
        f"video      {in_line(video['name'])} ({video['sha256'][:12]})",
        f"model      {model['id']} ({model['family']}, {model['dtype']}, "
        f"weights {model['weights_sha256'][:12]})",
        f"policy     {policy['name']}{_budget(policy['parameters'])}",
        f"samples    {found['samples']}, {found['stored_samples']} stored, "
        f"{found['samples'] - found['stored_samples']} pointers",
        f"slots      {found['slots']}, {sum(found['tokens'].values())} stored, "
        f"{found['computed']} computed, reuse of {policy['parameters'].get('reuse', 'unknown')}, "
        f"positions {found['layout']['positions']}",
        f"tokens     {tokens}",
        f"codec      {_codec(found['codec'])}",
        f"fidelity   {_fidelity(found)}",
        *_sizes(found),
        f"size       {found['size_bytes']:,} bytes, {found['compression']:.2f}x smaller than "
        f"the FP16 KV of all slots ({found['fp16_kv_bytes']:,})"
        + (f"; {a_minute:,} a minute" if a_minute else ""),
        f"written in {costs} s by {found['tool']}",
    ]
    if len(found["segments"]) > 1:
        lines += [
            "",
            f"{'segment':>7} {'from':>9} {'to':>9} {'samples':>8} {'tokens':>9} {'bytes':>13}",
        ]
        lines += map(_segment_line, found["segments"])
    return lines


def _budget(parameters: dict[str, Any]) -> str:
    """What a budget made of a policy."""
    asked = {"budget_tokens": "tokens computed", "budget_bytes_per_minute": "bytes a minute"}
    budgets = [f"{parameters[name]} {unit}" for name, unit in asked.items() if name in parameters]
    if not budgets:
        return ""
    times = parameters.get("threshold_scale", 1)
    raised = f", thresholds of change {times:.2f} times as high" if times != 1 else ""
    return f", at most {' and '.join(budgets)}{raised}"


def _codec(codec: dict[str, Any]) -> str:
    text = f"{codec['name']} {codec['quality']}"
    if codec["name"] == "plain":
        return text
    basis = "basis in the file"
    if codec["calibration"] is not None:
        basis = f"calibration {codec['calibration'][:12]}"
    return f"{text}, step {codec['step']:g}, {basis}"


def _fidelity(found: dict[str, Any]) -> str:
    fidelity = found["fidelity"]
    if fidelity is None:
        return "exact" if found["codec"]["name"] == "plain" else "not measured"
    worst = " of the worst segment" if len(found["segments"]) > 1 else ""
    return (
        f"KL {fidelity['kl']:.4f} nats a token, agreement {fidelity['agreement']:.3f}{worst}, "
        f"of {fidelity['tokens']} tokens that answer {fidelity['questions']} questions"
    )


def _sizes(found: dict[str, Any]) -> list[str]:
    """Bytes of each kind; of bases and blocks for each group of layers, if there are several."""
    layers = ", ".join(map(str, found["index_layers"]))
    blocks = [sum(block) for part in found["segments"] for block in part["blocks"]]
    notes = {
        "index": f"layers {layers}" if layers else "none: the rows are searched themselves",
        "blocks": f"{len(blocks)}, of {min(blocks):,} to {max(blocks):,}",
    }
    lines = [
        f"  {kind:9}{size:>15,} bytes" + (f" ({notes[kind]})" if kind in notes else "")
        for kind, size in found["bytes"].items()
    ]
    if len(found["groups"]) > 1:
        for group in found["groups"]:
            first, stop = group["layers"]
            lines.append(
                f"    layers {first:>3} to {stop - 1:>3}: bases {group['basis']:>11,}, "
                f"blocks {group['blocks']:>13,}"
            )
    return lines


def _segment_line(part: dict[str, Any]) -> str:
    times = " ".join(f"{part[name]:7.1f} s" for name in ("first_s", "last_s"))
    tokens = sum(part["tokens"].values())
    return f"{part['number']:7} {times} {part['samples']:8} {tokens:9,} {part['size_bytes']:13,}"
