"""Uniform rounding to few bits, per token or per channel: what the product has no tier for."""

from dataclasses import dataclass
from typing import Literal

import torch

from batch.evaluation.methods.packing import round_channels, round_tokens
from batch.evaluation.methods.row_method import Codec, Held, Rows


@dataclass(frozen=True, kw_only=True)
class LowBits(Codec):
    """Asymmetric rounding, packed, with a float16 scale and minimum a group.

    A group is a token's head, or `tokens` tokens of a channel for the kinds in `per_channel`.

    Source: KIVI (arXiv 2402.02750) for keys per channel; values per channel as the 2 bits of VidKV
    (arXiv 2503.16257), read in its authors' code. Departures: the latest rows are not kept exact;
    keys without rotation; groups cross samples.
    """

    name = "low-bits"

    bits: int = 2
    per_channel: tuple[Literal["key", "value"], ...] = ()
    tokens: int = 128

    def encode(self, rows: Rows) -> Held:
        kinds, size_bytes = [], 0
        for kind, states in (("key", rows.key), ("value", rows.value)):
            layers = [
                round_channels(layer, self.bits, self.tokens)
                if kind in self.per_channel
                else round_tokens(layer, self.bits)
                for layer in states
            ]
            kinds.append(torch.stack([layer.states for layer in layers]))
            size_bytes += sum(layer.size_bytes for layer in layers)
        return Held(kinds[0], kinds[1], size_bytes)
