"""Where attention goes: how much of it some queries pay to groups of stored rows.

The log-sum-exp of all scores, which attention over parts carries anyway, makes each row's share
exact from its key alone. Knows rows and queries; knows nothing of samples and answers.
"""

from typing import Protocol

import torch
from torch import Tensor

from batch.kv.attention import fold, rows_at_a_time, unfold
from batch.kv.prefix import Prefix


class Observer(Protocol):
    """Is shown the queries of every forward pass, layer by layer."""

    def add(self, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        """See one layer of a forward pass; layers come in order.

        Args:
            query: [running sequences, heads, new, head_dim], as attention gets it.
            lse: float32 [running sequences, heads, new], over prefix and suffix together.
        """

    def keep(self, sequences: Tensor) -> None:
        """Go on with these of the running sequences alone, in this order; int64 [kept]."""


class Evidence:
    """Adds up the attention that the last column of each forward pass pays, head by head."""

    def __init__(self, prefix: Prefix, group: Tensor, groups: int, sequences: int) -> None:
        """Count the rows of `prefix` by group: int [tokens], below `groups`, -1 is none.

        sequences: in the batch at first.
        """
        self._prefix = prefix
        self._group = group
        self._groups = groups
        self._running = torch.arange(sequences)
        self._passes = torch.zeros(sequences)
        self._paid: list[Tensor] = []

    def keep(self, sequences: Tensor) -> None:
        self._running = self._running[sequences.cpu()]

    def add(self, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        batch, heads, _, head_dim = query.shape
        kv_heads = self._prefix.shape.heads
        asking = fold(query[:, :, -1:].float() * scaling, kv_heads)
        total = fold(lse[:, :, -1:, None].float(), kv_heads)
        paid = torch.zeros(*asking.shape[:2], 1 + self._groups, device=query.device)  # none first
        start = 0
        for part in self._prefix.layer(layer):
            for key, bias in part.keys(query.dtype, rows_at_a_time(kv_heads, head_dim)):
                group = 1 + self._group[start : start + len(key)].to(query.device)
                scores = asking @ key.permute(1, 2, 0).float()
                scores -= total
                if bias is not None:
                    scores += bias
                paid.index_add_(2, group, scores.exp_())
                start += len(key)
        if layer == 0:
            self._passes[self._running] += 1
        if layer == len(self._paid):
            self._paid.append(paid.new_zeros(len(self._passes), heads, self._groups))
        running, paid = self._running.to(query.device), unfold(paid, batch, 1)[:, :, 0, 1:]
        self._paid[layer].index_add_(0, running, paid)

    @property
    def mass(self) -> Tensor:
        """Share of attention paid to each group; float32 [sequences, layers, heads, groups].

        The mean over the passes of each sequence; what is missing to 1 was paid to the suffix.
        """
        paid = torch.stack([layer.cpu() for layer in self._paid], 1)
        return paid / self._passes[:, None, None, None]
