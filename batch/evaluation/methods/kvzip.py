"""KVzip: the rows that the model needs to say the context again."""

from dataclasses import dataclass

from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Queries, Rows, text_first

_AGAIN = Queries("again", of="max")


@dataclass(frozen=True, kw_only=True)
class KVzip(Eviction):
    """Rows by the most attention that any query pays when the prefix is fed again behind itself.

    Made for questions that are not known; costs about twice the prefill more.

    Source: KVzip (arXiv 2505.23416), read in NVIDIA's kvpress. Departures: as many rows stay in
    each layer and head, where it lets all compete; the prefix is fed in one piece instead of
    pieces of 2,000 tokens, without "Repeat the previous context exactly."; every query may look at
    the whole prefix; text outside the samples stays.
    """

    name = "kvzip"

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_AGAIN,)

    def scores(self, rows: Rows, count: int) -> Tensor:
        return text_first(rows.attention[_AGAIN].weight, rows)
