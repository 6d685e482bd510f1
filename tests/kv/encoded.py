"""Rows in any encoding, made from the numbers they stand for."""

import torch
from torch import Tensor

from batch.kv.rows import Scratch, StoredRows
from cachefmt.tiers import Tier


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoded(
    tier: Tier, key: Tensor, value: Tensor, bias: Tensor | None = None, group_size: int = 1
) -> StoredRows:
    """Rows [rows, heads, head_dim] as the codec of a tier makes them."""
    return StoredRows(
        tier=tier,
        key=tier.codec.encode(key, group_size),
        value=tier.codec.encode(value, group_size),
        bias=bias,
        scratch=Scratch(),
    )


def raw(key: Tensor, value: Tensor, bias: Tensor | None = None) -> StoredRows:
    return encoded(Tier.FP16, key, value, bias)
