"""What a video is searched by before its rows are read: samples, bounds of keys, row numbers.

Knows numpy, no torch.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cachefmt.files import naming
from cachefmt.header import Shape
from cachefmt.layout import BOUNDS, kv_bytes, tensor_specs
from cachefmt.reader import CacheFile
from cachefmt.tables import check_index
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
    specs = tensor_specs(replace(shape, index_layers=(0,)))
    one_layer = sum(specs[name].size_bytes for name in BOUNDS)
    room = MOST_SHARE * kv_bytes(shape) - specs["index.row"].size_bytes
    count = max(1, min(shape.layers, int(room // max(1, one_layer))))
    return tuple(place * shape.layers // count for place in range(count))


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
        """Read them from a file, checked, and nothing else."""
        shape = cache.header.shape
        names = [name for name in cache.names if name.startswith(("sample.", "index."))]
        found = {name: cache.read_verified(name) for name in names}
        with naming(cache.path):
            check_index(shape, found.__getitem__)
        source = found["sample.source"]
        bounds, scale, minimum = (found[name] for name in BOUNDS)
        ends = [[shape.tokens[tier.name] for tier in STORED_TIERS]]
        return cls(
            time_s=found["sample.time_s"],
            source=source,
            stored=np.flatnonzero(source == np.arange(len(source))),
            first_row=np.concatenate([found["index.row"], ends]).astype(np.int64),
            bounds=bounds,
            scale=scale,
            minimum=minimum,
        )

    def rows(self, place: int, tier: Tier) -> slice:
        """Rows of the stored sample in this place (0, 1, ...) within a tier."""
        first, stop = self.first_row[place : place + 2, STORED_TIERS.index(tier)]
        return slice(int(first), int(stop))
