"""What a reader needs of a file before its rows: samples, where theirs are, cost; numpy only."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt.errors import CacheFileError
from cachefmt.header import Shape
from cachefmt.layout import tensor_specs
from cachefmt.reader import CacheFile
from cachefmt.tables import check_cost, check_index
from cachefmt.tiers import STORED_TIERS, Tier

MOST_SHARE = 0.01
"""Of a file's keys and values, what the index may take."""


def layers_within(shape: Shape) -> tuple[int, ...]:
    """As many layers, evenly from the first on, as an index of `MOST_SHARE` of the rows holds.

    At least one, where even that is more; the shape's own `index_layers` do not count.

    Source: 20 questions about 4 films of ten minutes, demo model of 5 layers, share of the true
    moment's samples among the best 1,000 tokens: layers 0, 1, 3: 0.94, 0, 2, 4: 0.84, 1, 3: 0.78,
    all: 0.93; among the best 3,700 tokens 0.98, 0.95, 0.90, 1.00. All are 1.3 % of the file.
    """
    sizes = {name: spec.size_bytes for name, spec in tensor_specs(shape).items()}
    rows = sum(size for name, size in sizes.items() if name.startswith("layers."))
    one_layer = replace(shape, index_layers=(0,))
    bounds = sum(
        spec.size_bytes
        for name, spec in tensor_specs(one_layer).items()
        if name.startswith("index.bounds")
    )
    room = MOST_SHARE * rows - sizes["index.row"]
    count = max(1, min(shape.layers, int(room // max(1, bounds))))
    return tuple(place * shape.layers // count for place in range(count))


def read_cost(cache: CacheFile) -> NDArray[np.float64]:
    """Seconds spent to analyze, encode and prefill, [3], read from a file and checked.

    Raises:
        CacheFileError: they are damaged or break a rule of FORMAT.md.
    """
    seconds = cache.read("cost.seconds")
    cache.check_digest("cost.seconds", seconds)
    try:
        check_cost(seconds)
    except ValueError as error:
        raise CacheFileError(cache.path, str(error)) from error
    return seconds


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """The sample.* and index.* tensors of a file, in memory.

    - time_s, source: of all samples; stored: int64 [stored], the samples that are no pointers.
    - first_row: int64 [stored + 1, tiers], where each begins and the one before it ends.
    - bounds, scale, minimum: INT4 [stored, index layers, 2, heads, ...], as FORMAT.md has them.
    """

    time_s: NDArray[np.float64]
    source: NDArray[np.int32]
    stored: NDArray[np.int64]
    first_row: NDArray[np.int64]
    bounds: NDArray[np.uint8]
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16]

    @property
    def size_bytes(self) -> int:
        """Bytes that were read for it."""
        rows = self.first_row[:-1].size * np.dtype(np.int32).itemsize
        read = (self.time_s, self.source, self.bounds, self.scale, self.minimum)
        return rows + sum(array.nbytes for array in read)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Rows of each stored sample, text that goes with it included; [stored]."""
        tokens: NDArray[np.int64] = np.diff(self.first_row, axis=0).sum(axis=1)
        return tokens

    @classmethod
    def read(cls, cache: CacheFile) -> Self:
        """Read them from a file, and nothing else.

        Raises:
            CacheFileError: one of them is damaged or breaks a rule of FORMAT.md.
        """
        shape = cache.header.shape
        names = [name for name in cache.names if name.startswith(("sample.", "index."))]
        found: dict[str, NDArray[Any]] = {name: cache.read(name) for name in names}
        for name, array in found.items():
            cache.check_digest(name, array)
        try:
            check_index(shape, found.__getitem__)
        except ValueError as error:
            raise CacheFileError(cache.path, str(error)) from error
        source = found["sample.source"]
        ends = [[shape.tokens[tier.name] for tier in STORED_TIERS]]
        return cls(
            time_s=found["sample.time_s"],
            source=source,
            stored=np.flatnonzero(source == np.arange(len(source))),
            first_row=np.concatenate([found["index.row"], ends]).astype(np.int64),
            bounds=found["index.bounds"],
            scale=found["index.bounds.scale"],
            minimum=found["index.bounds.minimum"],
        )

    def rows(self, place: int, tier: Tier) -> slice:
        """Rows of the stored sample in this place (0, 1, ...) within a tier."""
        return slice(int(self.first_row[place, tier]), int(self.first_row[place + 1, tier]))
