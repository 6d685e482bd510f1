"""What a scheme is: rows of keys and values in, the same as decoded and their bytes out.

The author of a scheme stores and decodes; which rows it gets, and what they are worth afterwards,
is settled by the judge. Knows no model and no text. Every method that works on rows is one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from batch.evaluation.methods import RowMethod
from batch.evaluation.methods.row_method import Held, Kind, Queries, Rows
from batch.evaluation.runs import Label
from batch.settings import Limit


@dataclass(frozen=True, kw_only=True)
class Scheme(ABC):
    """A way to store keys and values.

    - label: what its row is called by, as that of the same method of films.
    - kind, in_file: as of a method; None where another tool stores.
    - rotated: whether keys come with their position's rotation in, as models compute them, or
      without, and are rotated after decoding.
    - is_fitted: whether it must be fitted to other text before it stores.
    - observed: the attention that it reads.
    """

    is_fitted: ClassVar[bool] = False

    label: Label
    kind: Kind | None = "bits"
    in_file: bool | None = True

    @property
    def rotated(self) -> bool:
        return True

    @property
    def observed(self) -> tuple[Queries, ...]:
        return ()

    def fit(self, calibration: Rows) -> Self:
        """The scheme fitted to rows of another text: many tokens, rotated or not as for `store`."""
        return self

    @abstractmethod
    def store(self, rows: Rows) -> Held:
        """Store the rows of one context; what was fitted is not counted."""


@dataclass(frozen=True, kw_only=True)
class ByMethod(Scheme):
    """A method of the films' comparison; a share is one of the rows that it gets."""

    method: RowMethod
    limit: Limit | None = None

    @classmethod
    def of(cls, method: RowMethod, limit: Limit | None = None) -> Self:
        return cls(
            label=Label.of(method, limit),
            kind=method.kind,
            in_file=method.in_file,
            method=method,
            limit=limit,
        )

    @property
    def rotated(self) -> bool:
        return self.method.rotated

    @property
    def observed(self) -> tuple[Queries, ...]:
        return self.method.observed

    def store(self, rows: Rows) -> Held:
        return self.method.store(rows, self._count(rows))

    def _count(self, rows: Rows) -> int:
        if self.limit is None:
            return rows.tokens
        if self.limit.unit == "tokens":
            return min(self.limit.of(rows.tokens), rows.tokens)
        room = self.limit.of(rows.fp16_bytes)
        return self.method.rows_within(rows.shape, room, rows.fp16_bytes // rows.tokens)
