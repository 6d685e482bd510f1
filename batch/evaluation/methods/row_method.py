"""Methods that let the model read everything, and then store fewer or coarser keys and values.

The author of a method says which rows stay, what is merged into what, or what rows look like after
decoding; what of a model it gets to see, and what its answers are worth, is settled elsewhere. The
same methods store a film and a text.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from batch.errors import BatchError

Kind = Literal["whole", "before", "eviction", "merging", "bits"]
"""What a method does: all of it stays; choosing before the model runs; dropping rows after it;
putting one row for several; fewer bits a number."""


class Queries(NamedTuple):
    """The queries whose attention a method reads, and how it is summed up.

    - source: "prefix" are the prompt's own; "neutral" those of a question about nothing behind it;
      "again" those of the whole prefix, fed once more behind it.
    - last: so many of the last ones, None: all.
    - of: "sum" of the weights that a row got; "max" of them; "weak", the share of them that were
      below even attention to all that the query saw.
    """

    source: Literal["prefix", "neutral", "again"] = "prefix"
    last: int | None = None
    of: Literal["sum", "max", "weak"] = "sum"


class Attention(NamedTuple):
    """What was observed of some queries, over those of all query heads of a group.

    - weight: float32 [layers, kv_heads, tokens], as `Queries.of` says.
    - query_square: float32 [layers, kv_heads, head_dim], mean of the squares of queries as they
      are multiplied with keys.
    - echo: float32 [layers, kv_heads], of queries "again": how much they attend to the row that
      they repeat and to the one behind it, a mean, of the query head that does so most; else 0.
    """

    weight: Tensor
    query_square: Tensor
    echo: Tensor


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Keys and values of consecutive tokens, float32 [layers, tokens, kv_heads, head_dim].

    - attention: what `RowMethod.observed` asked for.
    - sample, cell: int64 [tokens], of a film; -1 is text. Of text alone both are empty.
    - weight: of rows to be fitted to, float32 [layers, 2], see `making.sensitivity.weights`.
    """

    key: Tensor
    value: Tensor
    attention: Mapping[Queries, Attention] = field(default_factory=dict)
    sample: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    cell: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    weight: Tensor | None = None

    @property
    def fp16_bytes(self) -> int:
        return 2 * (self.key.numel() + self.value.numel())

    @property
    def tokens(self) -> int:
        return self.key.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, kv_heads, tokens."""
        layers, tokens, heads, _ = self.key.shape
        return layers, heads, tokens

    @property
    def place(self) -> Tensor:
        """Of each row in the prompt, float32 [layers, kv_heads, tokens]."""
        return torch.arange(self.tokens, dtype=torch.float32).expand(self.shape)

    def select(self, tokens: Tensor) -> "Rows":
        """Those of some tokens, bool [tokens]."""
        return Rows(
            key=self.key[:, tokens],
            value=self.value[:, tokens],
            attention={
                queries: seen._replace(weight=seen.weight[..., tokens])
                for queries, seen in self.attention.items()
            },
            sample=self.sample[tokens] if len(self.sample) else self.sample,
            cell=self.cell[tokens] if len(self.cell) else self.cell,
        )

    @property
    def is_text(self) -> Tensor:
        """Bool [tokens]: text outside a film's samples, which few methods may drop."""
        return self.sample < 0 if len(self.sample) else torch.zeros(self.tokens, dtype=torch.bool)


class Held(NamedTuple):
    """What a method made of rows: all of them as decoded, in order, and all bytes that it needs.

    - key, value: as those of `Rows`; of rows that are gone anything finite.
    - size_bytes: keys, values, scales, and numbers of rows, where each head has its own.
    - times: how often each counts, float32 [layers, kv_heads, tokens]; 0: gone. None: once each.
    """

    key: Tensor
    value: Tensor
    size_bytes: int
    times: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class RowMethod(ABC):
    """A method that decides when the model has read everything.

    Departure common to all: the question is not known yet, since one cache serves every question.
    Positions stay those of the prompt.

    - rotated: whether keys come with their position's rotation in, and are given back so.
    - needs_samples: whether it cannot store text alone, or only as another method does.
    - in_file: whether what it chooses fits a file, which has one list of tokens for all layers
      and heads, whole tokens at FP16 or in a tier, and how often each counts.
    - profile: the name of its settings, where a method has several.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    needs_budget: ClassVar[bool] = True
    takes_budget: ClassVar[bool] = True
    rotated: ClassVar[bool] = True

    profile: str | None = None

    @property
    def needs_samples(self) -> bool:
        return False

    @property
    def in_file(self) -> bool:
        return False

    @property
    def observed(self) -> tuple[Queries, ...]:
        """What it reads of `Rows.attention`."""
        return ()

    def number_bytes(self, shape: tuple[int, int, int], count: int) -> int:
        """Of the numbers of the `count` rows that stay in each layer and head."""
        return 0

    def rows_within(self, shape: tuple[int, int, int], room: int, one: int) -> int:
        """How many rows a layer and head, a mean, `room` bytes hold with their numbers.

        Args:
            one: bytes of a row in all layers and heads.
        """

        def taken(count: int) -> int:
            return count * one + self.number_bytes(shape, count)

        return bisect_right(range(shape[2] + 1), room, key=taken) - 1

    @abstractmethod
    def store(self, rows: Rows, count: int) -> Held:
        """Store rows; `count` is how many may stay a layer and head, a mean over them.

        Raises:
            BatchError: no row would stay.
        """


@dataclass(frozen=True, kw_only=True)
class Codec(RowMethod):
    """A method that keeps every row, in fewer bits; it knows itself how many."""

    kind = "bits"
    needs_budget = False
    takes_budget = False
    rotated = False

    @abstractmethod
    def encode(self, rows: Rows) -> Held:
        """Store rows, all but the text outside samples, and decode them."""

    def store(self, rows: Rows, count: int) -> Held:
        """As of `encode`; text outside samples, on which attention rests, is FP16 as ever."""
        coded = ~rows.is_text
        held = self.encode(rows.select(coded))
        key, value = fp16(rows.key), fp16(rows.value)
        key[:, coded], value[:, coded] = held.key, held.value
        exact = 4 * int(rows.is_text.sum()) * key[:, 0].numel()
        return Held(key, value, held.size_bytes + exact)


@dataclass(frozen=True, kw_only=True)
class Eviction(RowMethod):
    """A method that keeps some rows of each layer and head at FP16, for each by itself.

    - shared: one choice of tokens for all layers and heads, which a file can hold: by the mean of
      the heads' scores, each head's of sum 1.
    """

    kind = "eviction"

    shared: bool = False

    @property
    def in_file(self) -> bool:
        return self.shared

    @abstractmethod
    def scores(self, rows: Rows, count: int) -> Tensor:
        """Rank rows [layers, kv_heads, tokens], the highest stays; `count` will."""

    def chosen(self, rows: Rows, count: int) -> Tensor:
        """The rows that stay, bool [layers, kv_heads, tokens]; as many as `count` a mean."""
        scores = self.scores(rows, count)
        if self.shared:
            sums = scores.nan_to_num(posinf=0.0).sum(-1, keepdim=True).clamp(min=1e-30)
            scores = (scores / sums).mean((0, 1)).expand(scores.shape)
        return highest(scores, count)

    def store(self, rows: Rows, count: int) -> Held:
        require_rows(self, count)
        chosen = self.chosen(rows, count)
        numbers = self.number_bytes(rows.shape, count)
        size_bytes = 4 * int(chosen.sum()) * rows.key.shape[-1] + numbers
        return Held(fp16(rows.key), fp16(rows.value), size_bytes, chosen.float())

    def number_bytes(self, shape: tuple[int, int, int], count: int) -> int:
        """Two bytes a row, or a bit for each that there was; shared ones are in a file's tables."""
        layers, heads, tokens = shape
        return 0 if self.shared else layers * heads * min(2 * count, -(-tokens // 8))


def require_rows(method: RowMethod, count: int) -> None:
    """Refuse a budget of nothing."""
    if count < 1:
        raise BatchError(f"{method.name}: the budget does not hold a single row")


def highest(scores: Tensor, count: int) -> Tensor:
    """Bool of the shape of scores: the `count` highest along the last axis; ties stay in order."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)


def text_first(scores: Tensor, rows: Rows) -> Tensor:
    """Scores by which text outside the samples stays before all else."""
    return scores.masked_fill(rows.is_text, torch.inf)


def fp16(states: Tensor) -> Tensor:
    """The same numbers, as FP16 holds them."""
    return states.half().float()
