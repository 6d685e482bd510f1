"""transformers' QuantizedCache under the demo model, with both of its backends.

    python -m batch.evaluation.rivals.quantized MODEL FILMS ANSWERS

The whole prefix is quantised, a question and its answer are not. Counted are the packed codes,
and scales and zero points as FP16.

Source: transformers 5.23, optimum-quanto 0.2.7, hqq 0.2.8.post1; transformers' own groups of 64
along axis 0. For hqq its documentation advises axis 1, but hqq then crashes where the groups do
not fill its bytes, and with groups that do it needs half as much again for the same answers.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Cache, QuantizedCache

from batch.evaluation.rivals.asking import Decoder, Film, Method, main

_BITS = (("quanto", 4), ("quanto", 2), ("hqq", 8), ("hqq", 4), ("hqq", 2))


def _methods(folder: Path) -> Iterator[tuple[Decoder, Method]]:
    decoder = Decoder(folder)
    for backend, bits in _BITS:
        yield decoder, _method(backend, bits)


def _method(backend: str, bits: int) -> Method:
    def fill(decoder: Decoder, film: Film) -> Cache:
        cache = QuantizedCache(backend, decoder.config, nbits=bits)
        decoder.read(film.prefix, cache, 0)
        return cache

    name = f"QuantizedCache {backend}"
    return Method(name=name, profile=f"{bits} bits", fill=fill, tensors=codes_and_scales)


def codes_and_scales(cache: Any) -> Iterable[Tensor]:
    """All that a QuantizedCache holds of its quantised rows."""
    for layer in cache.layers:
        yield from _plain(layer._quantized_keys)
        yield from _plain(layer._quantized_values)


def _plain(held: Any) -> Iterator[Tensor]:
    """The tensors inside hqq's (codes, meta) and quanto's tensors of tensors."""
    if isinstance(held, tuple):
        codes, meta = held
        yield from (codes, meta["scale"], meta["zero"])
    elif hasattr(held, "__tensor_flatten__"):
        names, _ = held.__tensor_flatten__()
        for name in names:
            yield from _plain(getattr(held, name))
    else:
        yield held


if __name__ == "__main__":
    main(__doc__, _methods)
