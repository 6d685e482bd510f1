"""Where attention goes: how much of it some queries pay to groups of stored rows.

The log-sum-exp of all scores, which attention over parts carries anyway, makes each row's share
exact from its key alone. Knows rows and queries; knows nothing of samples and answers.
"""

import torch
from torch import Tensor

from batch.kv.attention import fold, rows_at_a_time
from batch.kv.prefix import Prefix


class Evidence:
    """Adds up the attention that the last queries of a batch pay, head by head."""

    def __init__(self, prefix: Prefix, group: Tensor, groups: int, weight: Tensor) -> None:
        """Nothing is counted yet.

        Args:
            prefix: whose rows are asked about.
            group: int32 [tokens], -1 .. groups - 1: the group of each row, in the order of the
                file; -1 is none. Not copied, so it may lie over the mapped file.
            groups: how many there are.
            weight: float32 [batch, counted]: how much each of the last columns of a forward pass
                counts; 0 is not at all.
        """
        self._prefix = prefix
        self._group = group
        self._groups = groups
        self._weight = weight
        self._layers: list[Tensor] = []

    def add(self, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        """Count one layer; layers come in order.

        Args:
            layer: 0-based.
            query: [batch, heads, new, head_dim], as attention gets it.
            lse: float32 [batch, heads, new], of the scores of prefix and suffix together.
            scaling: factor of the scores.
        """
        batch, heads, _, _ = query.shape
        counted = self._weight.shape[1]
        asking = query[:, :, -counted:].float() * scaling
        total = lse[:, :, -counted:, None].float()
        columns = self._groups + 1  # rows of no group go to the last one
        paid = torch.zeros(batch, heads, columns, device=query.device)
        chunk_rows = rows_at_a_time(self._prefix.shape.heads, self._prefix.shape.head_dim)
        start = 0
        for part in self._prefix.layer(layer):
            for chunk in part.chunks(query.dtype, chunk_rows):
                keys = chunk.key.permute(1, 2, 0).float()  # [kv_heads, head_dim, rows]
                group = self._group[start : start + keys.shape[-1]].to(query.device) % columns
                for row, weight in enumerate(self._weight.to(query.device)):
                    own = slice(row, row + 1)
                    scores = fold(asking[own], len(keys)) @ keys
                    scores -= fold(total[own], len(keys))
                    if chunk.bias is not None:
                        scores += chunk.bias
                    shares = scores.exp_().view(heads, counted, -1)
                    paid[row].index_add_(1, group, torch.einsum("hqr,q->hr", shares, weight))
                start += keys.shape[-1]
        self._layers.append(paid[..., :-1].cpu() / self._weight.sum(1).cpu()[:, None, None])

    @property
    def mass(self) -> Tensor:
        """Share of attention paid to each group; float32 [batch, layers, heads, groups].

        The mean, by weight, over the counted queries; what is missing to 1 was paid to the suffix.
        """
        return torch.stack(self._layers, 1)
