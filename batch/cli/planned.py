"""What `batch prefill` says of a cache: one line, or one JSON object."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch.prefill import Memory, Prefill


def describe(target: Path, work: "Prefill", *, written: bool, skipped: bool) -> dict[str, Any]:
    """A cache as plain values with stable keys."""
    return {
        "cache": str(target),
        "written": written,
        "skipped": skipped,
        "size_bytes": work.size_bytes,
        "slots": work.plan.slots,
        "tokens": dict(work.header.shape.tokens),
        "samples": work.header.shape.samples,
        "stored_samples": int(work.manifest.kept.sum()),
        "positions": work.plan.numbering,
    }


def report(target: Path, work: "Prefill", *, skipped: bool, as_json: bool) -> str:
    """What is said of a cache that is there now."""
    if as_json:
        return json.dumps(describe(target, work, written=not skipped, skipped=skipped))
    return str(target)


def promise(target: Path, work: "Prefill", memory: "Memory", *, as_json: bool) -> str:
    """What a dry run says: the exact size, and what to expect of a minute and of memory."""
    minutes = work.manifest.header.decoded_s / 60
    per_minute = {
        "size_bytes": round(work.size_bytes / minutes),
        "tiers_bytes": round(memory.tiers_bytes / minutes),
    }
    if as_json:
        parts = {
            "weights_bytes": memory.weights_bytes,
            "tiers_bytes": memory.tiers_bytes,
            "block_bytes": memory.block_bytes,
            "peak_bytes": memory.peak_bytes,
        }
        found = describe(target, work, written=False, skipped=False)
        return json.dumps({**found, "per_minute": per_minute, "memory": parts})
    tokens = ", ".join(f"{tier} {count}" for tier, count in work.header.shape.tokens.items())
    weights = "unknown" if memory.weights_bytes is None else f"{memory.weights_bytes:,}"
    return (
        f"{target}: {work.size_bytes} bytes; tokens {tokens} of {work.plan.slots} slots; "
        f"a minute of video takes {per_minute['size_bytes']:,} bytes; memory: "
        f"{weights} weights, {memory.tiers_bytes:,} tiers "
        f"({per_minute['tiers_bytes']:,} a minute), about {memory.block_bytes:,} a block"
    )
