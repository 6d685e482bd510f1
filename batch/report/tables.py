"""Figures of manifests and caches in the words that people read."""

from typing import TYPE_CHECKING

from cachefmt.tiers import Tier

if TYPE_CHECKING:
    from batch.analysis.manifest import Manifest


def tier_shares(manifest: "Manifest") -> dict[str, float]:
    """Share of all cells of all samples in each tier, 0..1; pointers count as PRUNE."""
    return {tier.name: float((manifest.tier == tier).mean()) for tier in Tier}
