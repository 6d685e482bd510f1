"""The bases of a calibration, fitted to what was counted in."""

import math

import torch
from torch import Tensor

from batch.making.codec import LARGEST_VECTOR, SEARCHED_STEPS
from batch.models.family import DecoderShape
from cachefmt.codecs import symbols
from cachefmt.codecs.basis import Moments, read_directions, round_directions, spread

_LEAST_VARIANCE = 0.005
"""Of a component that is kept, of numbers divided by their scale.

Source: measured on 18 films of the demo world with the step 0.7; from 0.05 to 0.005 files grow by a
tenth, but KL falls from 0.089 to 0.003, as numbers of layers of little weight are not lost."""

_LEAST_ROUNDED = 1.0
"""Variance that a direction is rounded for, at least: what varies little in the videos that are
counted in may vary more in others.

Source: five films of the demo world, step 1: the promised KL is 0.014 with it, 0.017 with
directions of a byte a number, which take half as much again, and 0.023 without it."""


def fit(moments: Moments, weight: Tensor, components: int) -> dict[str, Tensor]:
    """The tensors of a group of layers, by the names of FORMAT.md without their number.

    Args:
        weight: [layers, 2], as of `sensitivity.weights`.
        components: at most.
    """
    mean = moments.mean().to(torch.float16)
    about = mean.float().expand(len(moments.means()), -1)
    scale = moments.scale(about) / weight
    variance, directions = moments.principal(about, scale, components, _LEAST_VARIANCE)
    of_rounding = variance.clamp(min=_LEAST_ROUNDED)
    gain, packed = round_directions(of_rounding, directions, min(SEARCHED_STEPS))
    rounded = read_directions(packed, gain, directions.shape[1])
    offsets = (moments.means() - about) / spread(scale, moments.shape)
    return {
        "scale": scale,
        "gain": gain,
        "mean": mean[0],
        "place": (offsets @ torch.linalg.pinv(rounded)).to(torch.float16),
        "directions": torch.frombuffer(bytearray(packed), dtype=torch.uint8),
    }


def most_direction_bytes(moments: Moments, components: int) -> int:
    """That so many directions can take."""
    return symbols.largest_matrix(math.prod(moments.shape) * components)


def layer_groups(decoder: DecoderShape) -> list[range]:
    """Layers that share a basis."""
    of_layer = 2 * decoder.heads * decoder.head_dim
    size = min(decoder.layers, max(1, LARGEST_VECTOR // of_layer))
    firsts = range(0, decoder.layers, size)
    return [range(first, min(first + size, decoder.layers)) for first in firsts]
