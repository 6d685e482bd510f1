"""Prefill block by block: encode, forward, quantise, append, write; and bounds of the keys.

A block attends to the tiers already stored and causally to itself, so memory above the weights
is the stored tiers and one block, for any length of video. Pictures are decoded a block ahead, and
rows are written behind the computation, each by a thread of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv import Block, Prefix, TieredCache, fill
from batch.kv.attention import CHUNK_NUMBERS
from batch.kv.rotation import rotation_of, unrotate
from batch.making.cache_plan import CachePlan
from batch.making.write_behind import WriteBehind
from batch.models import Family
from cachefmt import STORED_TIERS, CacheWriter, Tier, tensor_specs
from cachefmt.layout import BOUNDS, BOUNDS_TIER
from cachefmt.tables import first_rows

QUANTISED_ON_GPU = 1 << 24
"""Numbers that are quantised at a time on CUDA, in float32: 64 MiB, and as much for what is between
them and their codes. On the CPU it is `CHUNK_NUMBERS`, which stay in its cache."""


@dataclass(kw_only=True)
class Seconds:
    """Where the time of a prefill went, one after the other; they add up to all of it.

    encode, forward and quantise are those of the vision tower, the language model and the codecs,
    on CUDA by the device's clock, which runs on while it waits for work. write is what all waited
    for the file; most of the writing is done meanwhile.
    """

    encode: float = 0.0
    forward: float = 0.0
    quantise: float = 0.0
    write: float = 0.0


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
    prefix = _allocate(planned, family)
    bounds, clock = _KeyBounds(planned), _Clock(family.device)
    with (
        CacheWriter(path, planned.header) as writer,
        WriteBehind() as behind,
        ThreadPoolExecutor(1, "pictures") as decoding,
    ):
        _write_tables(writer, planned)
        see = partial(_see, planned)
        for seen in _one_ahead(decoding, see, planned.plan.blocks(planned.block_samples)):
            embedded = _embed(seen, planned, family)
            clock.mark("encode")
            cache = TieredCache(prefix)
            _fill(cache, embedded, seen.block, planned, family)
            clock.mark("forward")
            bounds.add(seen.block, cache, family, behind)
            _store(cache, prefix, planned.plan.tier[seen.block], writer, behind, clock)
            progress(seen.samples)
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


class _Clock:
    """Tells where time went, on CUDA without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, name: str) -> None:
        """What was done since the last mark was of this name."""
        self._marks.append((name, self._now()))

    def seconds(self) -> Seconds:
        seconds = Seconds()
        if self._is_cuda:
            torch.cuda.synchronize()
        for (_, before), (name, now) in zip(self._marks, self._marks[1:], strict=False):
            took = before.elapsed_time(now) / 1000 if self._is_cuda else now - before
            setattr(seconds, name, getattr(seconds, name) + took)
        return seconds

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch 2.13
        event.record()
        return event


def _allocate(planned: CachePlan, family: Family) -> Prefix:
    """Room for all rows, which count as often as the plan says."""
    plan, shape = planned.plan, planned.header.shape
    prefix = Prefix.allocate(shape, family.layer_devices)
    for tier in plan.tokens:
        rows = plan.file_order[np.asarray(shape.rows_of(tier), np.int64)]
        prefix.set_multiplicity(tier, torch.from_numpy(plan.multiplicity[rows]))
    return prefix


class _Seen(NamedTuple):
    """A block, the pictures of its stored samples, and where their cells go."""

    block: slice
    samples: int
    """With tokens in this block, stored or not."""
    places: NDArray[np.int64]
    """Of the cells among the block's tokens, int64 [cells]."""
    pictures: NDArray[np.uint8] | None
    """[stored, frames * height_px, width_px, 3]; None: there is no cell."""
    features: NDArray[np.int64]
    """Which of the features, [stored * cells a sample], goes to each place."""


def _see(planned: CachePlan, block: slice) -> _Seen:
    """Decode the pictures of a block."""
    sample, cell = planned.plan.sample[block], planned.plan.cell[block]
    places = np.flatnonzero(cell >= 0)
    stored, picture = np.unique(sample[places], return_inverse=True)
    pictures = [planned.manifest.picture(int(index)) for index in stored]
    return _Seen(
        block=block,
        samples=len(np.unique(sample[sample >= 0])),
        places=places,
        pictures=np.stack(pictures) if pictures else None,
        features=picture * planned.manifest.geometry.cells + cell[places],
    )


def _one_ahead(
    pool: ThreadPoolExecutor, see: Callable[[slice], _Seen], blocks: Iterable[slice]
) -> Iterator[_Seen]:
    """What is seen of each block; meanwhile that of the next is under way."""
    coming: Future[_Seen] | None = None
    for block in blocks:
        after = pool.submit(see, block)
        if coming is not None:
            yield coming.result()
        coming = after
    if coming is not None:
        yield coming.result()


def _embed(seen: _Seen, planned: CachePlan, family: Family) -> Tensor:
    """Embeddings [tokens, hidden] of a block; its stored samples pass the vision tower together."""
    ids = torch.from_numpy(planned.plan.token_ids[seen.block].astype(np.int64))
    embedded = family.text_embeddings(ids.to(family.device))
    if seen.pictures is not None:
        features = family.features(seen.pictures, planned.manifest.geometry).flatten(0, 1)
        chosen = features[torch.from_numpy(seen.features).to(features.device)]
        embedded[torch.from_numpy(seen.places).to(embedded.device)] = chosen.to(embedded)
    return embedded


def _fill(
    cache: TieredCache, embedded: Tensor, block: slice, planned: CachePlan, family: Family
) -> None:
    plan = planned.plan
    positions = torch.from_numpy(plan.positions[block].T.astype(np.int64)).to(embedded.device)
    positions = positions if len(positions) == 1 else positions[:, None]
    stops, bias = plan.copies(block)
    columns = Block()
    if bias is not None:
        columns = Block(stops=stops, bias=torch.from_numpy(bias).to(embedded.device))
    fill(family.language_model, embedded[None], positions, cache, columns)


def _store(
    cache: TieredCache,
    prefix: Prefix,
    tiers: NDArray[np.uint8],
    writer: CacheWriter,
    behind: WriteBehind,
    clock: _Clock,
) -> None:
    """Quantise a block's keys and values by tier, append them to the prefix and the file.

    Several layers at a time: many small calls cost more than their work.
    """
    order = torch.from_numpy(np.argsort(tiers, kind="stable"))
    counts = [int((tiers == tier).sum()) for tier in STORED_TIERS]
    for layers in _layers_at_a_time(prefix, len(tiers)):
        states = torch.split(_in_order(cache, layers, order), counts, dim=3)
        for tier, picked in zip(STORED_TIERS, states, strict=True):
            if not picked.shape[3]:
                continue
            if tier is Tier.FP16:
                picked = picked.to(prefix.raw_dtype)
            row = prefix.filled(layers.start, tier)
            stored = prefix.append_layers(layers.start, tier, picked.transpose(2, 3))
            write = partial(_write, writer, layers.start, tier, row, is_checked=not picked.is_cuda)
            clock.mark("quantise")
            behind.put(stored, write)
            clock.mark("write")


def _layers_at_a_time(prefix: Prefix, tokens: int) -> Iterator[range]:
    """All layers, in groups of one device, as many as may be quantised together."""
    numbers = 2 * tokens * prefix.shape.heads * prefix.shape.head_dim
    for device, layers in prefix.places():
        most = CHUNK_NUMBERS if device.type == "cpu" else QUANTISED_ON_GPU
        step = max(1, most // numbers)
        for first in range(layers.start, layers.stop, step):
            yield range(first, min(first + step, layers.stop))


def _in_order(cache: TieredCache, layers: range, order: Tensor) -> Tensor:
    """Keys and values of some layers [layers, 2, heads, tokens, head_dim], tokens in an order."""
    suffixes = [cache.suffix(layer) for layer in layers]
    _, heads, _, head_dim = suffixes[0][0].shape
    picked = suffixes[0][0].new_empty(len(layers), 2, heads, len(order), head_dim)
    order = order.to(picked.device)
    for states, suffix in zip(picked, suffixes, strict=True):
        for into, (of_sequence,) in zip(states, suffix, strict=True):
            torch.index_select(of_sequence, 1, order, out=into)
    return picked


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
