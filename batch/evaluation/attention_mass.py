"""How much attention each row of a prompt gets, exactly, while transformers reads the prompt.

Knows transformers' attention interface (5.23); knows no method that uses the figures.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

OBSERVED = "observed"
"""Name of our attention function in transformers' interface."""
BLOCK_SCORES = 1 << 24
"""Scores held at a time: 64 MiB."""


class AttentionMass:
    """Sums the attention that rows get from the last queries of a prompt.

    `of_layers` is float32 [kv_heads, rows] a layer, summed over the queries and over the query
    heads that share a key head.
    """

    def __init__(self, queries: int | None) -> None:
        """Observe so many of the last queries; None: all of them."""
        self._queries = queries
        self.of_layers: list[Tensor] = []

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Observe the next layer: query [1, heads, n, head_dim], key [1, kv_heads, n, head_dim]."""
        kv_heads, rows, head_dim = key.shape[1:]
        grouped = query[0].view(kv_heads, -1, rows, head_dim)
        first = 0 if self._queries is None else max(0, rows - self._queries)
        step = max(1, BLOCK_SCORES // (query.shape[1] * rows))
        total = torch.zeros(kv_heads, rows, device=key.device)
        place = torch.arange(rows, device=key.device)
        for start in range(first, rows, step):
            block = grouped[:, :, start : start + step]
            scores = (block @ key[0, :, None].transpose(-1, -2)).float() * scaling
            hidden = place > place[start : start + step, None]
            weights = scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1)
            total += weights.sum(dim=(1, 2))
        self.of_layers.append(total)


def install() -> None:
    """Register `observed_attention` with transformers under the name `OBSERVED`."""
    AttentionInterface.register(OBSERVED, observed_attention)


def observed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    mass: AttentionMass,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' SDPA does, causally, and tell `mass` (an attention function, 5.23).

    The layers of one prompt must come in order and in one piece.
    """
    mass.add(query, key, scaling)
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    output: Tensor = attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
    return output, None
