"""What a scheme is: rows of keys and values in, the same as decoded and their bytes out.

The author of a scheme stores and decodes; which rows it gets, and what they are worth afterwards,
is settled by the judge. Knows no model and no text.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Keys and values of consecutive tokens, float32 [layers, tokens, kv_heads, head_dim].

    mass: by a number of last queries (None: all of them), the attention that each row got from
    them, float32 [layers, kv_heads, tokens], summed over these queries and over the query heads of
    a group; only what `Scheme.observed_queries` asked for.

    weight: of rows to be fitted to, float32 [layers, 2], see `making.sensitivity.weights`.
    """

    key: Tensor
    value: Tensor
    mass: Mapping[int | None, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None

    @property
    def fp16_bytes(self) -> int:
        return 2 * (self.key.numel() + self.value.numel())


class Stored(NamedTuple):
    """What a scheme made of rows: as decoded, in the same form, and all bytes that it needs.

    There may be fewer rows than there were, as many in each layer and head; these need not be
    those of the same tokens.
    """

    key: Tensor
    value: Tensor
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Scheme(ABC):
    """A way to store keys and values.

    - rotated: whether keys come with their position's rotation in, as models compute them, or
      without, and are rotated after decoding. Without, all rows must come back, in order.
    - is_fitted: whether it must be fitted to other text before it stores.
    - observed_queries: the masses that it reads.
    """

    rotated: ClassVar[bool] = True
    is_fitted: ClassVar[bool] = False

    name: str

    @property
    def observed_queries(self) -> tuple[int | None, ...]:
        return ()

    def fit(self, calibration: Rows) -> Self:
        """The scheme fitted to rows of another text: many tokens, rotated or not as for `store`."""
        return self

    @abstractmethod
    def store(self, rows: Rows) -> Stored:
        """Store the rows of one context; what was fitted is not counted."""
