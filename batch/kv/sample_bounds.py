"""Bounds of the keys of each stored sample, rotation undone: what a video is searched by.

Source: bounds of the keys of a page are Quest's (arXiv 2406.10774), keys without their position
are ReKV's (arXiv 2503.00540), which takes their mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachefmt import KeyBounds, Tables
from cachefmt.header import Shape
from cachefmt.layout import BOUNDS_TIER, index_specs


class SampleBounds:
    """Collects them; they take no more memory than in a file. A sample without cells has 0."""

    def __init__(self, shape: Shape, tables: Tables) -> None:
        """shape: its `index_layers` are those that are bounded."""
        self._group_size = shape.group_size
        self._stored = tables.stored
        self._sample = np.where(tables.cell >= 0, tables.sample, -1)
        self._parts = [np.zeros(spec.shape, spec.numpy_dtype) for spec in index_specs(shape)]

    def samples(self, rows: slice) -> NDArray[np.int64]:
        """Which of the stored samples have cells among some rows of the file; rising."""
        present = np.unique(self._sample[rows])
        return np.searchsorted(self._stored, present[present >= 0])

    def of(self, rows: slice, keys: Tensor) -> Tensor:
        """Smallest and largest number of each channel, [samples, layers, 2, heads, head_dim].

        Args:
            rows: with all cells of `samples`.
            keys: [rows, layers, heads, head_dim], unrotated.
        """
        sample = self._sample[rows]
        bounds = []
        for one in self._stored[self.samples(rows)]:
            own = keys[torch.from_numpy(np.flatnonzero(sample == one)).to(keys.device)]
            bounds.append(torch.stack((own.amin(0), own.amax(0)), dim=1))
        return torch.stack(bounds) if bounds else keys.new_empty(0, *keys.shape[1:]).unsqueeze(2)

    def put(self, samples: NDArray[np.int64], layers: Sequence[int], bounds: Tensor) -> None:
        """Keep bounds on the CPU, as `of` gives them; layers by their place in `index_layers`."""
        encoded = BOUNDS_TIER.codec.encode(bounds, self._group_size)
        for part, found in zip(self._parts, encoded, strict=True):
            part[np.ix_(samples, np.array(layers))] = found.numpy()

    def bounds(self) -> KeyBounds:
        codes, scale, minimum = self._parts
        return KeyBounds(codes=codes, scale=scale, minimum=minimum)
