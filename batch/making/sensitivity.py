"""How much answers depend on the keys and on the values of each layer.

Measured: rows of one layer and kind are disturbed, and answers to neutral questions compared. What
answers hardly depend on may be stored coarsely. Knows rows in memory; knows no codec of files.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from batch.kv import Prefix
from batch.making.fidelity import NeutralAnswers
from cachefmt.layout import KINDS

DISTURBANCE = 0.2
"""Deviation of the noise, in those of what is disturbed: enough to stand out from rounding, little
enough that the error still grows with its square."""
LEAST_SHARE = 0.02
"""Of the mean error: a layer and kind counts as no less, however little was seen of it."""


@torch.inference_mode()
def measure_sensitivity(answers: NeutralAnswers, rows: Prefix, deviation: Tensor) -> Tensor:
    """KL of answers when the keys or values of one layer are disturbed, float64 [layers, 2].

    Args:
        answers: of the same rows.
        rows: all filled; disturbed meanwhile, then again as they were.
        deviation: float32 [layers, 2], root mean square of the numbers about their means.
    """
    found = torch.zeros(deviation.shape, dtype=torch.float64)
    noise = torch.Generator().manual_seed(0)
    for layer, of_kinds in enumerate(deviation):
        for number, kind in enumerate(KINDS):
            with _disturbed(rows, layer, kind, DISTURBANCE * float(of_kinds[number]), noise):
                found[layer, number] = answers.compare(rows).kl
    return found


def weights(kl: Tensor) -> Tensor:
    """By what to multiply numbers of unit deviation before one step quantises all, [layers, 2].

    The error grows with the square of the step and, layer by layer, adds up: least bits for one
    error are spent where each number's step is the inverse root of what its square costs. Weights
    are such that the error stays about what it is without them.

    Source: reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3).
    """
    mean = kl.mean()
    if not mean > 0:
        return torch.ones(kl.shape)
    return (kl / mean).clamp(min=LEAST_SHARE).sqrt().float()


@contextmanager
def _disturbed(
    rows: Prefix, layer: int, kind: str, deviation: float, noise: torch.Generator
) -> Iterator[None]:
    """Rows of a layer and kind with noise, in the tiers where they are."""
    held = [part for stored in rows.layer(layer) for part in stored.parts(kind)]
    exact = [part.clone() for part in held]
    for stored in rows.layer(layer):
        if not len(stored):
            continue
        (chunk,) = stored.chunks(torch.float32, len(stored))
        states = chunk.key if kind == "key" else chunk.value
        moved = states + deviation * torch.randn(states.shape, generator=noise).to(states.device)
        encoded = stored.tier.codec.encode(moved, rows.shape.group_size)
        for part, changed in zip(stored.parts(kind), encoded, strict=True):
            part.copy_(changed)
    try:
        yield
    finally:
        for part, before in zip(held, exact, strict=True):
            part.copy_(before)
