"""Plain: the rows of tiers exactly as memory has them.

Bytes of a block: for each tier, for each of its parts, an array [layers of the group, 2 (K and V),
rows of the tier in the block, heads, numbers of a head]; little-endian, without gaps.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cachefmt.codecs.symbols import DecodeError
from cachefmt.header import Shape
from cachefmt.layout import part_specs
from cachefmt.tensors import TORCH_DTYPES
from cachefmt.tiers import STORED_TIERS, Tier

Parts = Mapping[Tier, tuple[Tensor, ...]]
"""What the codec of each tier makes of rows [layers, 2, rows, heads, head_dim]."""


def encode(parts: Parts) -> bytes:
    """The bytes of a block of rows on any device; a tier that is left out has none."""
    tensors = [part for tier in STORED_TIERS for part in parts.get(tier, ())]
    return b"".join(
        part.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for part in tensors
        if part.numel()
    )


def decode(
    data: bytes, shape: Shape, *, layers: int, counts: Mapping[Tier, int]
) -> dict[Tier, tuple[Tensor, ...]]:
    """The parts of each stored tier, on the CPU: views of the bytes, which must not be written to.

    Args:
        layers: of the group; counts: rows of each tier in the block.

    Raises:
        DecodeError: bytes of another length.
    """
    found, start = {}, 0
    specs = {
        tier: part_specs(shape, tier, (layers, 2, counts.get(tier, 0), shape.heads))
        for tier in STORED_TIERS
    }
    expected = sum(spec.size_bytes for parts in specs.values() for spec in parts)
    if len(data) != expected:
        raise DecodeError(f"a plain block of {len(data)} bytes, expected {expected}")
    block = bytearray(data)  # torch warns about memory that it must not write to
    for tier, parts in specs.items():
        tensors = []
        for spec in parts:
            dtype = TORCH_DTYPES[spec.dtype]
            tensor = torch.empty(spec.shape, dtype=dtype)
            if tensor.numel():
                count = math.prod(spec.shape)
                tensor = torch.frombuffer(block, dtype=dtype, count=count, offset=start)
            tensors.append(tensor.view(spec.shape))
            start += spec.size_bytes
        found[tier] = tuple(tensors)
    return found
