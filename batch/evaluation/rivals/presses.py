"""NVIDIA kvpress under the demo model.

    python -m batch.evaluation.rivals.presses MODEL FILMS ANSWERS

A press sees the prefix before any question, as a cache that serves many questions must. Its K
and V are counted as FP16. `nothing removed` is the control: it has to answer as the model does.

Source: https://github.com/NVIDIA/kvpress, 0.5.5, default settings of each press.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kvpress
from torch import Tensor
from transformers import Cache, DynamicCache

from batch.evaluation.rivals.asking import Decoder, Film, Method, main

_PRESSES: tuple[type[kvpress.ScorerPress], ...] = (
    kvpress.SnapKVPress,
    kvpress.ObservedAttentionPress,
    kvpress.KnormPress,
    kvpress.ExpectedAttentionPress,
    kvpress.StreamingLLMPress,
    kvpress.KeyDiffPress,
)
_REMOVED = (0.5, 0.75, 0.875)
"""Shares of the prefix that a press takes away."""


def _methods(folder: Path) -> Iterator[tuple[Decoder, Method]]:
    """Every press at every share; ObservedAttention needs the attention weights."""
    fast, eager = Decoder(folder), Decoder(folder, attention="eager")
    yield fast, _method("kvpress", "nothing removed", kvpress.KnormPress(compression_ratio=0.0))
    for kind in _PRESSES:
        decoder = eager if kind is kvpress.ObservedAttentionPress else fast
        name = f"kvpress {kind.__name__.removesuffix('Press')}"
        for share in _REMOVED:
            press = kind(compression_ratio=share)
            yield decoder, _method(name, f"keep {100 * (1 - share):g}%", press)


def _method(name: str, profile: str, press: kvpress.ScorerPress) -> Method:
    def fill(decoder: Decoder, film: Film) -> Cache:
        cache = DynamicCache(config=decoder.config)
        with press(decoder.model):
            decoder.read(film.prefix, cache, 0)
        return cache

    return Method(name=name, profile=profile, fill=fill, tensors=_rows)


def _rows(cache: Any) -> Iterable[Tensor]:
    return (states for layer in cache.layers for states in (layer.keys, layer.values))


if __name__ == "__main__":
    main(__doc__, _methods)
