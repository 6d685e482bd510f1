"""KeyDiff: the rows whose keys are unlike the others."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.row_method import Eviction, Rows


@dataclass(frozen=True, kw_only=True)
class KeyDiff(Eviction):
    """Rows whose key has the least cosine with the mean of all keys' directions in its head.

    Source: KeyDiff (arXiv 2504.15364), read in NVIDIA's kvpress; keys with their rotation, as
    there. Departure: rows are dropped once, after the whole prompt, not block by block.
    """

    name = "keydiff"

    def scores(self, rows: Rows, count: int) -> Tensor:
        direction = functional.normalize(rows.key, dim=-1)
        anchor = direction.mean(1, keepdim=True)
        return -functional.cosine_similarity(direction, anchor, dim=-1).transpose(1, 2)
