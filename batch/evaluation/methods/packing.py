"""Rounding to few bits, packed, with the bytes that it takes: what codecs among methods share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cachefmt.codecs.quantising import round_down, scale_for


class Packed(NamedTuple):
    """Rounded numbers: codes packed to whole bytes, uint8; scale and minimum, float16 a group."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self)


def pack(groups: Tensor, bits: int, real: int) -> Packed:
    """Round groups [n, groups, size] to `bits` bits between the minimum and maximum of each.

    real: numbers of each of the n that count, the first ones; codes of the others are left out.
    """
    minimum = round_down(groups.amin(-1))
    floor = minimum.float()[..., None]
    scale = scale_for(groups.amax(-1) - floor[..., 0], 2**bits - 1)
    step = scale.float()[..., None]
    levels = ((groups - floor) / torch.where(step == 0, 1, step)).round().clamp(0, 2**bits - 1)
    codes = levels.to(torch.uint8).flatten(1)[:, :real].numpy()
    used = np.unpackbits(codes[..., None], axis=-1)[..., 8 - bits :]
    return Packed(torch.from_numpy(np.packbits(used)), scale, minimum)


def unpack(packed: Packed, bits: int, size: int, real: int) -> Tensor:
    """Float32 [n, real] of what `pack` made of groups of `size`."""
    count, groups = packed.scale.shape
    used = np.unpackbits(packed.codes.numpy(), count=count * real * bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.float32)
    codes = torch.from_numpy(used.reshape(count, real, bits) @ weights)
    padded = torch.nn.functional.pad(codes, (0, groups * size - real)).view(count, groups, size)
    decoded = padded * packed.scale.float()[..., None] + packed.minimum.float()[..., None]
    return decoded.flatten(1)[:, :real]


class Rounded(NamedTuple):
    """Numbers as decoded, of the shape that they had, and the bytes of what was stored."""

    states: Tensor
    size_bytes: int


def round_tokens(states: Tensor, bits: int) -> Rounded:
    """A scale and a minimum for each head of each token; states [tokens, heads, head_dim]."""
    size = states.shape[-1]
    packed = pack(states.flatten(0, 1)[:, None], bits, size)
    return Rounded(unpack(packed, bits, size, size).view_as(states), packed.size_bytes)


def round_channels(states: Tensor, bits: int, tokens: int) -> Rounded:
    """A scale and a minimum for each channel of so many tokens; states [tokens, ...]."""

    def code(groups: Tensor) -> Rounded:
        packed = pack(groups, bits, len(states))
        return Rounded(unpack(packed, bits, tokens, len(states)), packed.size_bytes)

    return by_channel(states, tokens, code)


def by_channel(states: Tensor, tokens: int, code: Callable[[Tensor], Rounded]) -> Rounded:
    """Store groups of so many tokens of a channel; states [tokens, ...].

    code: gets [channels, groups, tokens], the last group filled up with its last number, and gives
        back at least [channels, numbers that there were].
    """
    channels = states.flatten(1).T
    padding = channels[:, -1:].expand(-1, -len(states) % tokens)
    groups = torch.cat([channels, padding], dim=1).view(len(channels), -1, tokens)
    decoded, size_bytes = code(groups)
    return Rounded(decoded.flatten(1)[:, : len(states)].T.reshape(states.shape), size_bytes)
