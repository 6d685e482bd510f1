"""ZipCache: more bits for the rows that attention rests on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.packing import Rounded, round_channels, round_tokens
from batch.evaluation.methods.row_method import Codec, Held, Queries, Rows, highest

_ALL = Queries()


@dataclass(frozen=True, kw_only=True)
class ZipCache(Codec):
    """Of each layer 60 % of the rows at 4 bits, those of most attention, the others at 2.

    Attention counts a query that could see the row. Keys per channel; values per token, each
    channel first divided by the root of its largest number.

    Source: ZipCache (arXiv 2405.14256), read in its authors' code; MiKV (arXiv 2402.18096) has the
    idea, never to drop but to lower. Departures: attention of all queries, not of a tenth as
    probes; a scale of values is that of a token's head, not of all heads; groups of 128 tokens;
    keys without rotation; nothing is recompressed later.
    """

    name = "zipcache"

    share: float = 0.6
    tokens: int = 128

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_ALL,)

    def encode(self, rows: Rows) -> Held:
        seen_by = rows.tokens - torch.arange(rows.tokens)
        salience = rows.attention[_ALL].weight.mean(1) / seen_by
        salient = highest(salience, round(self.share * rows.tokens))
        key, value = torch.empty_like(rows.key), torch.empty_like(rows.value)
        size_bytes = len(rows.key) * -(-rows.tokens // 8)
        for layer, chosen in enumerate(salient):
            for own, bits in ((chosen, 4), (~chosen, 2)):
                if own.any():
                    keys = round_channels(rows.key[layer, own], bits, self.tokens)
                    values = _separable(rows.value[layer, own], bits)
                    key[layer, own], value[layer, own] = keys.states, values.states
                    size_bytes += keys.size_bytes + values.size_bytes
        return Held(key, value, size_bytes)


def _separable(states: Tensor, bits: int) -> Rounded:
    """Values with their channels evened out, and a scale a token."""
    root = states.abs().amax(0).sqrt().half().clamp(min=1e-4).float()
    found = round_tokens(states / root, bits)
    return Rounded(found.states * root, found.size_bytes + 2 * root.numel())
