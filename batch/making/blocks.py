"""The file of a prefill: rows written behind the computation, and bounds of the keys."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv import Prefix, TieredCache
from batch.kv.rotation import rotation_of, unrotate
from batch.making.cache_plan import CachePlan
from batch.making.computing import Clock, Seconds, allocate, compute, keep
from batch.making.write_behind import WriteBehind
from batch.models import Family
from cachefmt import STORED_TIERS, CacheWriter, Tier, tensor_specs
from cachefmt.layout import BOUNDS, BOUNDS_TIER
from cachefmt.tables import first_rows


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
    bounds, clock = _KeyBounds(planned), Clock(family.device)
    with (
        CacheWriter(path, planned.header) as writer,
        WriteBehind() as behind,
        closing(compute(planned, family, prefix, clock)) as blocks,
    ):
        _write_tables(writer, planned)
        for computed in blocks:
            bounds.add(computed.block, computed.cache, family, behind)
            rows = keep(computed.cache, planned.plan.tier[computed.block])
            clock.mark("quantise")
            for tier, kept in rows.items():
                for first, parts in prefix.rows(tier, kept):
                    write = partial(_write, writer, first, tier, kept.start)
                    behind.put(parts, partial(write, is_checked=not parts[0].is_cuda))
            clock.mark("write")
            progress(computed.samples)
        behind.finish()
        clock.mark("write")
        bounds.write(writer)
        seconds = clock.seconds()
        run = seconds.forward + seconds.quantise + seconds.write
        cost = [planned.manifest.analyze_seconds, seconds.encode, run]
        writer.write("cost.seconds", 0, np.array(cost))
        started = time.perf_counter()
        writer.finish()
        seconds.write += time.perf_counter() - started
    return seconds


def _write(
    writer: CacheWriter,
    first: int,
    tier: Tier,
    row: int,
    parts: list[Tensor],
    *,
    is_checked: bool,
) -> None:
    """Write rows of some layers, the first of which is `first`, as `append_layers` gave them."""
    if not is_checked:
        tier.codec.check(*parts)
    for name, rows in Prefix.named(first, tier, parts).items():
        writer.write(name, row, _numpy(rows))


def _write_tables(writer: CacheWriter, planned: CachePlan) -> None:
    plan, order = planned.plan, planned.plan.file_order
    writer.write("token.position", 0, plan.positions[order])
    writer.write("token.sample", 0, plan.sample[order])
    writer.write("token.cell", 0, plan.cell[order])
    writer.write("token.multiplicity", 0, plan.multiplicity[order])
    writer.write("sample.time_s", 0, planned.manifest.pts_s)
    writer.write("sample.source", 0, planned.manifest.source)


def _numpy(rows: Tensor) -> NDArray[Any]:
    """The tensor's memory for the file; bfloat16, which numpy lacks, as int16."""
    array: NDArray[Any] = (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()
    return array


class _KeyBounds:
    """The smallest and the largest number of each channel in a sample's keys, rotation undone.

    A file is searched by them; they take no more memory than there. A sample without cells has 0.

    Source: bounds of the keys of a page are Quest's (arXiv 2406.10774), keys without their
    position are ReKV's (arXiv 2503.00540), which takes their mean.
    """

    def __init__(self, planned: CachePlan) -> None:
        self._shape, self._plan = planned.header.shape, planned.plan
        self._stored = np.flatnonzero(planned.manifest.kept)
        specs = tensor_specs(self._shape)
        self._encoded = {
            name: np.zeros(specs[name].shape, specs[name].numpy_dtype) for name in BOUNDS
        }

    def add(self, block: slice, cache: TieredCache, family: Family, behind: WriteBehind) -> None:
        """Take the keys of a block, which are the whole suffix of `cache`."""
        plan, layers = self._plan, self._shape.index_layers
        sample = np.where(plan.cell[block] >= 0, plan.sample[block], -1)
        present = np.unique(sample[sample >= 0])
        if not layers or not len(present):
            return
        rotation = rotation_of(family.language_model, torch.from_numpy(plan.positions[block]))
        suffixes = [cache.suffix(layer)[0][0].to(rotation.cos.device) for layer in layers]
        keys = unrotate(torch.cat(suffixes).transpose(0, 1), rotation)  # layers beside heads
        places = (torch.from_numpy(np.flatnonzero(sample == one)) for one in present)
        of_samples = [keys[rows.to(keys.device)] for rows in places]
        bounds = torch.stack([torch.stack((own.amin(0), own.amax(0))) for own in of_samples])
        by_layer = bounds.view(*bounds.shape[:2], len(layers), -1, bounds.shape[3]).transpose(1, 2)
        behind.put([by_layer], partial(self._keep, np.searchsorted(self._stored, present)))

    def _keep(self, rows: NDArray[np.int64], bounds: list[Tensor]) -> None:
        """Encode bounds [samples, layers, 2, heads, head_dim]."""
        found = BOUNDS_TIER.codec.encode(bounds[0], self._shape.group_size)
        for name, encoded in zip(BOUNDS, found, strict=True):
            self._encoded[name][rows] = encoded.numpy()

    def write(self, writer: CacheWriter) -> None:
        order = self._plan.file_order
        for name, encoded in self._encoded.items():
            writer.write(name, 0, encoded)
        in_tiers = [
            self._plan.sample[order][np.asarray(self._shape.rows_of(tier), np.int64)]
            for tier in STORED_TIERS
        ]
        rows = [first_rows(sample, self._stored) for sample in in_tiers]
        writer.write("index.row", 0, np.stack(rows, axis=1))
