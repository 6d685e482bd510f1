"""The file of a prefill: its blocks, written behind the computation, and what it is searched by."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv.rotation import unrotate
from batch.kv.sample_bounds import SampleBounds
from batch.making.cache_plan import CachePlan
from batch.making.computing import Clock, Computed, Seconds, allocate, compute, keep
from batch.making.file_blocks import file_blocks
from batch.making.write_behind import WriteBehind
from batch.models import Family
from cachefmt import CacheWriter


@torch.inference_mode()
def prefill(
    planned: CachePlan,
    family: Family,
    path: Path,
    *,
    progress: Callable[[int], object] = lambda samples: None,
) -> Seconds:
    """Run a planned prefill with a loaded model and write the cache, whole or not at all.

    `progress` is told the number of samples of each block when it is done, but for what of the
    file is still being written.

    Raises:
        CacheFileError: the file cannot be written.
        ManifestError: a picture in the manifest is damaged.
    """
    prefix = allocate(planned, family)
    clock = Clock(family.device)
    with (
        CacheWriter(path, planned.header, planned.tables) as writer,
        WriteBehind() as behind,
        closing(compute(planned, family, prefix, clock)) as blocks,
    ):
        bounds = _Bounds(planned, family, behind)
        of_file = file_blocks(planned, family, prefix, writer, behind)
        for computed in blocks:
            bounds.add(computed)
            keep(computed.cache, planned.plan.tier[computed.block])
            clock.mark("quantise")
            of_file.add(computed)
            clock.mark("write")
            progress(computed.samples)
        behind.finish()
        clock.mark("write")
        bounds.write(writer)
        seconds = clock.seconds()
        run = seconds.forward + seconds.quantise + seconds.write
        started = time.perf_counter()
        writer.finish([planned.manifest.analyze_seconds, seconds.encode, run])
        seconds.write += time.perf_counter() - started
    return seconds


class _Bounds:
    """The bounds of exact keys, of a file that has an index."""

    def __init__(self, planned: CachePlan, family: Family, behind: WriteBehind) -> None:
        self._layers = planned.header.shape.index_layers
        self._positions = planned.plan.positions
        self._family, self._behind = family, behind
        self._bounds = SampleBounds(planned.header.shape, planned.tables)

    def add(self, computed: Computed) -> None:
        samples = self._bounds.samples(computed.block)
        if not self._layers or not len(samples):
            return
        rotation = self._family.rotation(torch.from_numpy(self._positions[computed.block]))
        keys = [
            computed.cache.suffix(layer)[0][0].to(rotation.cos.device) for layer in self._layers
        ]
        unrotated = unrotate(torch.cat(keys).transpose(0, 1), rotation)  # layers beside heads
        by_layer = unrotated.view(len(unrotated), len(keys), *keys[0].shape[::2])
        found = self._bounds.of(computed.block, by_layer)
        self._behind.put([found], partial(self._put, samples))

    def _put(self, samples: NDArray[np.int64], bounds: list[Tensor]) -> None:
        self._bounds.put(samples, range(len(self._layers)), bounds[0])

    def write(self, writer: CacheWriter) -> None:
        if self._layers:
            writer.write_index(self._bounds.bounds())
