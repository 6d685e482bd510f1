"""What a person chooses of a model and of its caches. Knows no torch, so that all may know it."""

from dataclasses import dataclass
from typing import Literal

Attention = Literal["auto", "torch", "triton"]
Reference = Literal["kept", "previous"]
"""Sample that redundancy is measured against: the last kept one, or the one before."""
Positions = Literal["compact", "original"]
Pointers = Literal["multiplicity", "nothing"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which checkpoint, and how it runs.

    - name: "demo", a folder, or an id on the Hugging Face hub; revision: branch, tag or commit
      there; offline: use only what is on this machine.
    - device: as torch names it, or "auto" to spread the model over all there are; None: cuda if
      there is one, else cpu.
    - dtype: "float32", "bfloat16" or "float16", to compute in; None: that of quantised weights,
      else by the device.
    - attention: what attends to the tiers; "auto" is Triton's kernel on CUDA, torch elsewhere.
    """

    name: str = "demo"
    revision: str | None = None
    offline: bool = False
    device: str | None = None
    dtype: str | None = None
    attention: Attention = "auto"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What of a manifest goes into a cache, and where it stands there.

    - positions: "original" keeps the positions of the layout of all samples; "compact" lays out
      the kept samples as if pointers had never been sampled.
    - pointers: "multiplicity" counts a cell once more for each pointer to its sample, "nothing"
      counts it once.
    - timestamps: write its time before each sample, where the model's prompt has room.
    - block_samples: stored samples prefilled together; None: the usual number.
    """

    positions: Positions = "compact"
    pointers: Pointers = "multiplicity"
    timestamps: bool = False
    block_samples: int | None = None
