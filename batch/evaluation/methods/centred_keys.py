"""INT4 of keys less their mean: what is the same in all keys needs no bits."""

from dataclasses import dataclass

import torch

from batch.evaluation.methods.row_method import Codec, Held, Rows
from cachefmt.codecs import int4
from cachefmt.header import default_group_size


@dataclass(frozen=True, kw_only=True)
class CentredKeys(Codec):
    """The product's INT4 of values, and of keys from which each channel's mean was taken.

    Softmax does not see what is added to all keys alike. So rows need not be touched when they are
    read: a part with such keys only adds the product of query and mean to its log-sum-exp.

    Source: ours; that keys have channels far from 0 is KIVI's finding (arXiv 2402.02750). The mean
    is that of the rows themselves, rotated, as memory has them.
    """

    name = "centred-keys"
    rotated = True

    def encode(self, rows: Rows) -> Held:
        mean = rows.key.mean(1, keepdim=True).half()
        coded = [_coded(rows.key - mean), _coded(rows.value)]
        (key, key_bytes), (value, value_bytes) = coded
        return Held(key + mean, value, key_bytes + value_bytes + mean.nbytes)


def _coded(states: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As decoded, and the bytes of what was stored."""
    parts = int4.encode(states, default_group_size(states.shape[-1]))
    return int4.decode(*parts), sum(part.nbytes for part in parts)
