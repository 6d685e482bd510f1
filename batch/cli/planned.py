"""What `batch prefill` says of a cache: one line, or one JSON object."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch.making import Memory, VideoPlan


def describe(
    target: Path, video: "VideoPlan", *, written: list[int], skipped: bool
) -> dict[str, Any]:
    """A cache as plain values with stable keys.

    Args:
        written: numbers of the segments that this run wrote.
    """
    return {
        "cache": str(target),
        "written": bool(written),
        "skipped": skipped,
        "size_bytes": video.size_bytes,
        "slots": video.slots,
        "tokens": video.tokens,
        "samples": sum(header.shape.samples for header in video.headers),
        "stored_samples": int(video.manifest.kept.sum()),
        "positions": video.headers[0].layout.positions,
        "segments": len(video.headers),
        "segments_written": len(written),
    }


def report(target: Path, video: "VideoPlan", *, written: list[int], as_json: bool) -> str:
    """What is said of a cache that is there now."""
    if as_json:
        return json.dumps(describe(target, video, written=written, skipped=not written))
    return str(target)


def promise(target: Path, video: "VideoPlan", memory: "Memory", *, as_json: bool) -> str:
    """What a dry run says: the exact size, and what to expect of a minute and of memory."""
    from cachefmt.layout import kv_bytes

    minutes = video.manifest.header.decoded_s / 60
    tiers_bytes = sum(kv_bytes(header.shape) for header in video.headers)
    per_minute = {
        "size_bytes": round(video.size_bytes / minutes),
        "tiers_bytes": round(tiers_bytes / minutes),
    }
    found = describe(target, video, written=[], skipped=False)
    if as_json:
        parts = {
            "weights_bytes": memory.weights_bytes,
            "tiers_bytes": memory.tiers_bytes,
            "block_bytes": memory.block_bytes,
            "peak_bytes": memory.peak_bytes,
        }
        return json.dumps({**found, "per_minute": per_minute, "memory": parts})
    tokens = ", ".join(f"{tier} {count}" for tier, count in found["tokens"].items())
    weights = "unknown" if memory.weights_bytes is None else f"{memory.weights_bytes:,}"
    segments = f" in {len(video.headers)} segments" if video.is_cut else ""
    growing = (
        "of the largest segment" if video.is_cut else f"({per_minute['tiers_bytes']:,} a minute)"
    )
    return (
        f"{target}: {video.size_bytes} bytes{segments}; tokens {tokens} of {found['slots']} slots; "
        f"a minute of video takes {per_minute['size_bytes']:,} bytes; memory: "
        f"{weights} weights, {memory.tiers_bytes:,} tiers {growing}, "
        f"about {memory.block_bytes:,} a block"
    )
