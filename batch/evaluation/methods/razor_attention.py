"""RazorAttention: heads that retrieve keep everything, the others a row for what they drop."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Held, Queries, RowMethod, Rows, fp16, require_rows

_AGAIN = Queries("again", of="max")


@dataclass(frozen=True, kw_only=True)
class RazorAttention(RowMethod):
    """Half of the budget goes to whole heads; others keep sinks, the latest, and one summary row.

    The summary is the mean key and value of the rows that a head drops, counted so many times.

    Source: RazorAttention (arXiv 2407.15891). That heads are found without data, and the summary
    row, is from memory, not verified. Departures: heads are those that attend most to what they
    repeat, and to what follows it, when the prefix is fed again (theirs: random tokens, repeated);
    how many follows from the budget, not 15 %; the mean is of keys without rotation, and stands in
    the middle of what it replaces.
    """

    name = "razor-attention"
    kind = "merging"
    rotated = False

    sinks: int = 4

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_AGAIN,)

    def number_bytes(self, shape: tuple[int, int, int], count: int) -> int:
        """A bit a head: which rows it has follows from it."""
        return -(-shape[0] * shape[1] // 8)

    def store(self, rows: Rows, count: int) -> Held:
        require_rows(self, count)
        layers, heads, tokens = rows.shape
        budget = count * layers * heads
        whole = min(layers * heads - 1, budget // 2 // tokens)
        echo = rows.attention[_AGAIN].echo.flatten()
        order = echo.sort(descending=True, stable=True).indices.tolist()
        left, others = budget - whole * tokens, layers * heads - whole
        key, value = fp16(rows.key), fp16(rows.value)
        times = torch.ones(layers, heads, tokens)
        for place, head in enumerate(order[whole:]):
            own = left // others + (place < left % others)
            self._cut(key, value, times, divmod(head, heads), min(own, tokens))
        size_bytes = 4 * budget * rows.key.shape[-1]
        return Held(key, value, size_bytes + self.number_bytes(rows.shape, count), times)

    def _cut(
        self, key: Tensor, value: Tensor, times: Tensor, where: tuple[int, int], own: int
    ) -> None:
        """Leave `own` rows of a head, in place: one of them sums the others up."""
        layer, head = where
        tokens = times.shape[-1]
        if own == tokens:
            return
        first = min(self.sinks, max(0, own - 1))
        dropped = slice(first, tokens - max(0, own - 1 - first))
        middle = (dropped.start + dropped.stop) // 2
        times[layer, head, dropped] = 0
        times[layer, head, middle] = dropped.stop - dropped.start
        for states in (key, value):
            states[layer, middle, head] = fp16(states[layer, dropped, head].mean(0))
