"""Uniform rounding to few bits, per token or per channel: what the product has no tier for."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from batch.evaluation.judges.schemes.scheme import Rows, Scheme, Stored
from cachefmt.codecs.quantising import round_down, scale_for

TOKENS = 128
"""That share a scale, where it is one a channel."""


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


@dataclass(frozen=True, kw_only=True)
class LowBits(Scheme):
    """Asymmetric rounding, packed, with a float16 scale and minimum a group.

    A group is a token's head, or 128 tokens of a channel for the kinds in `per_channel`. Source:
    KIVI (arXiv 2402.02750) for keys per channel; values per channel as VidKV (2503.16257).
    """

    rotated = False

    bits: int
    per_channel: tuple[str, ...] = ()

    def store(self, rows: Rows) -> Stored:
        decoded, size_bytes = {}, 0
        for kind in ("key", "value"):
            layers = []
            for states in getattr(rows, kind):
                store = self._channels if kind in self.per_channel else self._tokens
                back, stored = store(states)
                layers.append(back)
                size_bytes += stored
            decoded[kind] = torch.stack(layers)
        return Stored(decoded["key"], decoded["value"], size_bytes)

    def _tokens(self, states: Tensor) -> tuple[Tensor, int]:
        size = states.shape[-1]
        packed = pack(states.flatten(0, 1)[:, None], self.bits, size)
        return unpack(packed, self.bits, size, size).view_as(states), packed.size_bytes

    def _channels(self, states: Tensor) -> tuple[Tensor, int]:
        tokens, heads, head_dim = states.shape
        channels = states.flatten(1).T
        padding = channels[:, -1:].expand(-1, -tokens % TOKENS)
        groups = torch.cat([channels, padding], dim=1).view(len(channels), -1, TOKENS)
        packed = pack(groups, self.bits, tokens)
        decoded = unpack(packed, self.bits, TOKENS, tokens)
        return decoded.T.reshape(tokens, heads, head_dim), packed.size_bytes
