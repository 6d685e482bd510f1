"""What a person asks for, before anyone has looked at the model."""

from dataclasses import dataclass
from typing import Literal

from batch.analysis.temporal import Reference
from batch.video import Sampling


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """All that decides what the cache of a given video holds.

    `block_samples` is what a cache is begun with; None is the default of prefill. One that does
    not fit the memory is made of smaller blocks: its record says of which, and it counts as done,
    for its rows differ as little as between any two block sizes.
    """

    model: str
    revision: str | None
    offline: bool
    dtype: str | None
    profile: str
    sampling: Sampling
    reference: Reference | None
    positions: Literal["compact", "original"]
    pointers: Literal["multiplicity", "nothing"]
    timestamps: bool
    block_samples: int | None
    attn: Literal["auto", "torch", "triton"]
    """What attends; no part of the identity, for it changes rounding only."""
