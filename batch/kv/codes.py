"""Attention of a few queries to quantised rows on the processor, without decoding them.

A number of a row is scale * code + minimum of its group of channels. So a score is
scale * (query . codes) + minimum * sum(query), and an output the sum of weight * scale * codes and
weight * minimum: a few scores and weights are scaled, not all numbers of all rows. Codes are whole
numbers, which float32 holds exactly; all is computed in it.

Knows what the codecs of INT8 and INT4 make of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import groupby, pairwise

import torch
from torch import Tensor

from batch.kv.rows import Scratch, StoredRows
from cachefmt.codecs import int4, int8
from cachefmt.tiers import Tier

_UNPACK = {Tier.INT8: int8.unpack, Tier.INT4: int4.unpack}
MOST_QUERIES = 8
"""Folded queries for which this takes less time than to decode: one of each head of a group."""
LEAST_NUMBERS = 1 << 17
"""Of keys: of fewer rows the calls cost more than the work.

Source: 8,192 rows of 2 heads x 64, CPU time of one thread (Xeon, AVX-512), ms decoded and so: with
7 queries in bfloat16 INT8 5.5 and 4.3, INT4 7.3 and 5.4, in float32 4.0 and 3.9, 6.0 and 5.1; with
14 in float32 4.6 and 5.0, 6.1 and 6.4. A chunk has 10 to 15 calls more, of 2 us.
"""


def takes_codes(query: Tensor, part: StoredRows) -> bool:
    """Whether folded queries are better attended to these rows by `attend_codes`."""
    kv_heads, queries, head_dim = query.shape
    return (
        query.device.type == "cpu"
        and part.tier in _UNPACK
        and queries <= MOST_QUERIES
        and len(part) * kv_heads * head_dim >= LEAST_NUMBERS
    )


def attend_codes(
    query: Tensor, part: StoredRows, *, scaling: float, chunk_rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attend from folded queries to the rows of such a part, a chunk at a time.

    Yields what `batch.kv.attention.merge` joins; arguments are those of `attend` there.
    """
    query = query.float() * scaling
    for start in range(0, len(part), chunk_rows):
        rows = slice(start, start + chunk_rows)
        key = _Codes.of(part.tier, "key", [one[rows] for one in part.key], part.scratch)
        scores = key.scores(query)
        if part.bias is not None:
            scores += part.bias[rows]
        weights = scores.softmax(-1)
        # The log-sum-exp from the largest score and its weight: logsumexp is ten operations.
        lse = scores.amax(-1) - weights.amax(-1).log()
        value = _Codes.of(part.tier, "value", [one[rows] for one in part.value], part.scratch)
        yield value.weighted_sum(weights), lse


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """Keys or values of a chunk as numbers that are not scaled yet."""

    planes: Tensor
    """Float32 [planes, rows, heads, channels of a plane], of which head_dim is made in order."""
    scale: Tensor
    """Float32 [heads, groups, rows]."""
    minimum: Tensor | None
    """As scale; None is zero."""

    @classmethod
    def of(cls, tier: Tier, kind: str, parts: list[Tensor], scratch: Scratch) -> "_Codes":
        codes, scale, *minimum = parts
        planes = tier.parts[0].channels or 1
        out = scratch.take(kind, (planes, *codes.shape), torch.float32, codes.device)
        _UNPACK[tier](codes, out=out)
        by_head = [one.float().permute(1, 2, 0) for one in (scale, *minimum)]
        return cls(planes=out, scale=by_head[0], minimum=by_head[1] if minimum else None)

    def scores(self, query: Tensor) -> Tensor:
        """Dot products [heads, queries, rows] of query [heads, queries, head_dim] and all rows."""
        return reduce(Tensor.add_, (self._dots(query, *group) for group in self._groups()))

    def _dots(self, query: Tensor, group: int, spans: list[slice]) -> Tensor:
        """What the channels of a group add to the scores."""
        first, *others = spans
        dots = query[..., first] @ self._codes(first).permute(1, 2, 0)
        for span in others:
            dots.baddbmm_(query[..., span], self._codes(span).permute(1, 2, 0))
        dots *= self.scale[:, None, group]
        if self.minimum is not None:
            shifted = query[..., first.start : spans[-1].stop].sum(-1, keepdim=True)
            dots.addcmul_(shifted, self.minimum[:, None, group])
        return dots

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum over rows [heads, queries, head_dim], of weights [heads, queries, rows]."""
        sums = []
        for group, spans in self._groups():
            scaled = weights * self.scale[:, None, group]
            shift = None if self.minimum is None else weights @ self.minimum[:, group, :, None]
            for span in spans:
                of_span = scaled @ self._codes(span).transpose(0, 1)
                sums.append(of_span if shift is None else of_span.add_(shift))
        return torch.cat(sums, -1)

    def _groups(self) -> Iterator[tuple[int, list[slice]]]:
        """Each group of channels, cut where it goes from one plane to the next."""
        planes, _, _, channels = self.planes.shape
        head_dim = planes * channels
        group_size = head_dim // self.scale.shape[1]
        cuts = {*range(0, head_dim, group_size), *range(0, head_dim, channels), head_dim}
        spans = [slice(start, stop) for start, stop in pairwise(sorted(cuts))]
        for group, its_spans in groupby(spans, lambda span: span.start // group_size):
            yield group, list(its_spans)

    def _codes(self, span: slice) -> Tensor:
        """Float32 [rows, heads, channels] of channels that lie in one plane."""
        plane, start = divmod(span.start, self.planes.shape[-1])
        return self.planes[plane, :, :, start : start + span.stop - span.start]
