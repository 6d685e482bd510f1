"""The tiers a token can be stored in: one table, over which everything else loops.

Knows what a row of each is made of, and the codec that makes it; knows no files. Torch is imported
when a codec is first asked for.
"""

import enum
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """One of the tensors that a codec makes of rows [rows, heads, head_dim]."""

    suffix: str
    """Of its name, behind that of the tier."""
    dtype: str | None
    """Safetensors' name; None: that of the model run."""
    channels: int | None
    """Channels that one number of it stands for; None: a whole group of them."""


class TierCodec(Protocol):
    """What a module of `cachefmt.codecs` has."""

    def encode(self, x: "Tensor", group_size: int) -> "tuple[Tensor, ...]":
        """The parts of rows, in the order of the table; ValueError for what has no code."""

    def quantise(self, x: "Tensor", group_size: int) -> "tuple[Tensor, ...]":
        """As `encode` without that error, which takes a look at all numbers."""

    def check(self, *parts: "Tensor") -> None:
        """Raise that error for what `quantise` gave, on any device."""

    def decode(self, *parts: "Tensor", out: "Tensor | None" = None) -> "Tensor":
        """Float32 rows from their parts, into `out`, contiguous and of their shape, if given."""


_CODES, _SCALE, _MINIMUM = "", Part(".scale", "F16", None), Part(".minimum", "F16", None)


class Tier(enum.IntEnum):
    """What is stored of a token. The order is that of the rows in a file; codes are in manifests.

    Its codec is the module of `cachefmt.codecs` that has its name.
    """

    parts: tuple[Part, ...]

    def __new__(cls, code: int, *parts: Part) -> "Tier":
        tier = int.__new__(cls, code)
        tier._value_ = code
        tier.parts = parts
        return tier

    FP16 = 0, Part(_CODES, None, 1)
    """The raw numbers of the model run: F16, BF16 or, for exact runs, F32."""
    INT8 = 1, Part(_CODES, "I8", 1), _SCALE
    INT4 = 2, Part(_CODES, "U8", 2), _SCALE, _MINIMUM
    PRUNE = 3
    """Nothing is stored."""

    @property
    def codec(self) -> TierCodec:
        """How rows are encoded and decoded; imports torch."""
        return cast(TierCodec, importlib.import_module(f"cachefmt.codecs.{self.name.lower()}"))


STORED_TIERS = tuple(tier for tier in Tier if tier.parts)


def token_counts(counts: Mapping[Tier, int]) -> dict[str, int]:
    """Tokens by the name of each stored tier, as a header has them; 0 of what is left out."""
    return {tier.name: counts.get(tier, 0) for tier in STORED_TIERS}
