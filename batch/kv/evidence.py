"""Where attention goes: how much of it the tokens of answers pay to groups of stored rows.

The log-sum-exp of all scores, which attention over parts carries anyway, makes each row's share
exact from its key alone. So a pass only keeps its last queries, and the keys are read once for
all tokens of all answers. Knows rows and queries; knows nothing of samples.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

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


class Paid(NamedTuple):
    """Shares of attention on the CPU, float32; what is missing to 1 was paid to the suffix.

    - groups: [sequences, layers, heads, groups].
    - rows: [sequences, rows of the prefix], a mean over layers and heads.
    """

    groups: Tensor
    rows: Tensor


class LastQueries:
    """An `Observer` that keeps the query of the last column of each pass, and its log-sum-exp.

    It writes into buffers at places that it counts on the device: a CUDA graph can hold it.
    """

    def __init__(self, sequences: int, passes: int) -> None:
        """sequences: in the batch at first; passes: at most."""
        self.shape = sequences, passes
        self._queries: list[Tensor] = []
        self._lses: list[Tensor] = []
        self._scaling = 1.0
        self._place = torch.empty(0, dtype=torch.int64)
        self.begin()

    def begin(self) -> None:
        """Forget all passes; the buffers stay where they are."""
        sequences, _ = self.shape
        first = torch.arange(sequences) - sequences
        if len(self._place) == len(first):
            self._place.copy_(first)
        else:
            self._place = first

    def keep(self, sequences: Tensor) -> None:
        self._place = self._place[sequences.to(self._place.device)]

    def add(self, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        _, heads, _, head_dim = query.shape
        sequences, passes = self.shape
        if layer == len(self._queries):
            self._scaling = scaling
            self._queries.append(query.new_empty(sequences * passes, heads, head_dim))
            self._lses.append(lse.new_empty(sequences * passes, heads))
        if layer == 0:
            self._place = self._place.to(query.device)
            self._place += sequences
        place = self._place.to(query.device)
        self._queries[layer].index_copy_(0, place, query[:, :, -1])
        self._lses[layer].index_copy_(0, place, lse[:, :, -1])

    def paid(self, prefix: Prefix, lengths: Sequence[int], group: Tensor, groups: int) -> Paid:
        """Attention paid to each group of rows, and to each row: a mean over a sequence's passes.

        Args:
            lengths: passes of each sequence that count, at least one, from the first on.
            group: int [rows of the prefix], below `groups`; -1 is none.
        """
        places = [
            torch.arange(length) * self.shape[0] + sequence
            for sequence, length in enumerate(lengths)
        ]
        sequence = torch.repeat_interleave(torch.tensor(lengths))
        mean = torch.zeros(len(lengths), len(sequence))
        mean[sequence, torch.arange(len(sequence))] = 1 / torch.tensor(lengths)[sequence]
        into = torch.cat(places)

        @functools.cache  # a copy to each device, not to each layer
        def on(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
            return into.to(device), mean.to(device), group.to(device)

        layers, of_rows = [], torch.zeros(len(lengths), len(group))  # one for all layers
        for layer, (query, lse) in enumerate(zip(self._queries, self._lses, strict=True)):
            place, weight, group_here = on(query.device)
            asked = query[place].float() * self._scaling
            of_rows = of_rows.to(query.device)
            found = _paid(
                prefix,
                layer,
                query.dtype,
                asked,
                lse[place],
                weight,
                group_here,
                groups + 1,
                of_rows,
            )
            layers.append(found)
        of_groups = torch.stack([layer[..., 1:].to(layers[0].device) for layer in layers], 1)
        return Paid(of_groups.cpu(), of_rows.cpu().div_(len(layers)))


def _paid(
    prefix: Prefix,
    layer: int,
    dtype: torch.dtype,
    asked: Tensor,
    lse: Tensor,
    mean: Tensor,
    group: Tensor,
    groups: int,
    of_rows: Tensor,
) -> Tensor:
    """Mean share that scaled queries float32 [asked, heads, head_dim] pay in one layer.

    mean: [sequences, asked], the weight of each query; returns [sequences, heads, groups] and adds
    to `of_rows` [sequences, rows] the mean over heads.
    """
    sequences, kv_heads = len(mean), prefix.shape.heads
    queries = fold(asked[:, :, None], kv_heads)
    totals = fold(lse[:, :, None, None], kv_heads)
    # Scores may be more than keys: a batch of long answers has thousands of queries.
    chunk = rows_at_a_time(kv_heads, max(queries.shape[1:]), asked.device)
    paid = asked.new_zeros(groups, kv_heads * sequences * (asked.shape[1] // kv_heads))
    start = 0
    for part in prefix.layer(layer):
        for key, bias in part.keys(dtype, chunk):
            shares = torch.baddbmm(-totals, queries, key.permute(1, 2, 0).float())
            if bias is not None:
                shares += bias
            of_passes = shares.exp_().view(kv_heads, mean.shape[1], -1)
            means = (mean @ of_passes).view(-1, len(key))
            of_heads = means.view(kv_heads, sequences, -1, len(key))
            of_rows[:, start : start + len(key)] += of_heads.mean((0, 2))
            paid.index_add_(0, 1 + group[start : start + len(key)], means.T)  # none first
            start += len(key)
    return unfold(paid.T.reshape(kv_heads, -1, groups), sequences, 1)[:, :, 0]
