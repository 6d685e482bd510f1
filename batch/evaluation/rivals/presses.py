"""NVIDIA kvpress under the demo model.

    python -m batch.evaluation.rivals.presses MODEL FILMS ANSWERS

A press sees the prefix before any question, as a cache that serves many questions must. Its K
and V are counted as FP16. `nothing removed` is the control: it has to answer as the model does.

Source: https://github.com/NVIDIA/kvpress, 0.5.5, default settings of each press.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kvpress import (
    ExpectedAttentionPress,
    KeyDiffPress,
    KnormPress,
    ObservedAttentionPress,
    ScorerPress,
    SnapKVPress,
    StreamingLLMPress,
)
from torch import Tensor
from transformers import Cache, DynamicCache

from batch.evaluation.rivals.asking import Decoder, Film, Method, main

PRESSES: dict[str, type[ScorerPress]] = {
    "SnapKV": SnapKVPress,
    "ObservedAttention": ObservedAttentionPress,
    "Knorm": KnormPress,
    "ExpectedAttention": ExpectedAttentionPress,
    "StreamingLLM": StreamingLLMPress,
    "KeyDiff": KeyDiffPress,
}
REMOVED = (0.5, 0.75, 0.875)
"""Shares of the prefix that a press takes away."""


def methods(folder: Path) -> Iterator[tuple[Decoder, Method]]:
    """Every press at every share; ObservedAttention needs the attention weights."""
    fast, eager = Decoder(folder), Decoder(folder, attention="eager")
    yield fast, press_method("kvpress", "nothing removed", KnormPress(compression_ratio=0.0))
    for name, kind in PRESSES.items():
        decoder = eager if kind is ObservedAttentionPress else fast
        for share in REMOVED:
            press = kind(compression_ratio=share)
            yield decoder, press_method(f"kvpress {name}", f"keep {100 * (1 - share):g}%", press)


def press_method(name: str, profile: str, press: ScorerPress) -> Method:
    """A press as a way to fill a cache."""

    def fill(decoder: Decoder, film: Film) -> Cache:
        cache = DynamicCache(config=decoder.config)
        with press(decoder.model):
            decoder.read(film.prefix, cache, 0)
        return cache

    return Method(name=name, profile=profile, fill=fill, tensors=rows)


def rows(cache: Any) -> Iterable[Tensor]:
    """K and V of all layers."""
    for layer in cache.layers:
        yield from (layer.keys, layer.values)


if __name__ == "__main__":
    main(__doc__, methods)
