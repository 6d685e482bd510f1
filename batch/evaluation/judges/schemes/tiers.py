"""The product's tiers, through its own memory and codecs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.judges.schemes.scheme import Scheme
from batch.evaluation.methods.row_method import Held, Rows
from batch.kv import Prefix
from cachefmt.header import Shape
from cachefmt.tiers import STORED_TIERS, Tier, token_counts


@dataclass(frozen=True, kw_only=True)
class Tiers(Scheme):
    """Tokens in tiers as the product has them in memory and on disk, tables and header aside.

    - shares: of the tokens, by tier; together 1. Which token gets which is drawn, with a seed.
    - group_size: channels that share a scale.
    """

    shares: Mapping[Tier, float]
    group_size: int = 64

    def store(self, rows: Rows) -> Held:
        layers, tokens, heads, head_dim = rows.key.shape
        chosen = self._chosen(tokens)
        shape = Shape(
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            group_size=min(self.group_size, head_dim),
            raw_dtype="F16",
            position_axes=1,
            samples=0,
            stored_samples=0,
            rows=0,
            columns=0,
            tokens=token_counts({tier: len(of_tier) for tier, of_tier in chosen.items()}),
            index_layers=(),
        )
        prefix = Prefix.allocate(shape, "cpu")
        decoded = Held(torch.empty_like(rows.key), torch.empty_like(rows.value), prefix.size_bytes)
        for layer in range(layers):
            for tier, of_tier in chosen.items():
                key, value = rows.key[layer, of_tier], rows.value[layer, of_tier]
                if tier is Tier.FP16:
                    key, value = key.half(), value.half()
                prefix.append(layer, tier, key, value)
            for part in prefix.layer(layer):
                for chunk in part.chunks(torch.float32, tokens):
                    decoded.key[layer, chosen[part.tier]] = chunk.key
                    decoded.value[layer, chosen[part.tier]] = chunk.value
        return decoded

    def _chosen(self, tokens: int) -> dict[Tier, Tensor]:
        """Tokens of each tier, in order."""
        drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
        chosen: dict[Tier, Tensor] = {}
        start, reached = 0, 0.0
        for tier in STORED_TIERS:
            reached += self.shares.get(tier, 0.0)
            stop = round(reached * tokens)
            chosen[tier] = drawn[start:stop].sort().values
            start = stop
        return chosen
