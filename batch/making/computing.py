"""Prefill block by block: encode, forward, quantise; files come later.

A block attends to the tiers already stored and causally to itself, so memory above the weights
is the stored tiers and one block, for any length of video. Pictures are decoded a block ahead.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv import Block, Prefix, TieredCache, fill
from batch.kv.attention import CHUNK_NUMBERS
from batch.kv.reuse import ReusedRows, Sources
from batch.kv.rotation import between, unrotate
from batch.making.cache_plan import CachePlan
from batch.making.plan import Plan
from batch.models import Family
from cachefmt import STORED_TIERS, Tier

QUANTISED_ON_GPU = 1 << 24
"""Numbers that are quantised at a time on CUDA, in float32: 64 MiB, and as much for what is between
them and their codes. On the CPU it is `CHUNK_NUMBERS`, which stay in its cache."""


@dataclass(kw_only=True)
class Seconds:
    """Where the time of a prefill went, one after the other; they add up to all of it.

    encode, forward and quantise are those of the vision tower, the language model and the codecs,
    on CUDA by the device's clock, which runs on while it waits for work. write is what all waited
    for the file; most of the writing is done meanwhile. measure is what its error took to measure.
    """

    encode: float = 0.0
    forward: float = 0.0
    quantise: float = 0.0
    write: float = 0.0
    measure: float = 0.0


class Clock:
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


class Computed(NamedTuple):
    """A block that went through the language model."""

    block: slice
    """Its tokens, of those of the plan."""
    samples: int
    """With tokens in it, stored or not."""
    cache: TieredCache
    """Its suffix, a batch of 1, are the keys and values of the block."""


def allocate(planned: CachePlan, family: Family) -> Prefix:
    """Room for all rows, which count as often as the plan says."""
    plan = planned.plan
    prefix = Prefix.allocate(planned.header.shape, family.layer_devices)
    for tier in STORED_TIERS:
        counts = torch.from_numpy(plan.multiplicity[plan.tier == tier])
        prefix.set_multiplicity(tier, counts)
    return prefix


@torch.inference_mode()
def compute(
    planned: CachePlan, family: Family, prefix: Prefix, clock: Clock | None = None
) -> Generator[Computed]:
    """Run a loaded model over a plan, block after block; close it if it is not used up.

    A block attends to what the prefix holds: `keep` it before the next one is asked for. Its
    suffix is valid until then.

    Raises:
        ManifestError: a picture in the manifest is damaged.
    """
    clock = clock or Clock(family.device)
    see, sources = partial(_see, planned), Sources(planned.manifest.geometry.cells)
    with ThreadPoolExecutor(1, "pictures") as decoding:
        for seen in _one_ahead(decoding, see, planned.plan.blocks(planned.block_samples)):
            embedded = _embed(seen, planned, family)
            clock.mark("encode")
            cache = TieredCache(prefix)
            _fill(cache, embedded, seen, planned, family, sources)
            clock.mark("forward")
            yield Computed(block=seen.block, samples=seen.samples, cache=cache)


def keep(cache: TieredCache, tiers: NDArray[np.uint8]) -> None:
    """Move a suffix into its prefix, behind the rows of earlier blocks.

    Several layers at a time are quantised: many small calls cost more than their work.

    Args:
        cache: as of `Computed`.
        tiers: of each of its tokens.
    """
    prefix = cache.prefix
    order = torch.from_numpy(np.argsort(tiers, kind="stable"))
    counts = [int((tiers == tier).sum()) for tier in STORED_TIERS]
    for layers in _layers_at_a_time(prefix, len(tiers)):
        states = torch.split(_in_order(cache, layers, order), counts, dim=3)
        for tier, picked in zip(STORED_TIERS, states, strict=True):
            if picked.shape[3]:
                raw = picked.to(prefix.raw_dtype) if tier is Tier.FP16 else picked
                prefix.append_layers(layers.start, tier, raw.transpose(2, 3))


def unrotated(
    computed: Computed,
    planned: CachePlan,
    family: Family,
    layers: range,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Keys without the rotation of their position, and values, of some layers.

    Returns:
        [tokens, layers, 2, heads, head_dim] of the block's tokens in order, on the device of the
        first of the layers.

    Raises:
        ModelError: keys of this model cannot be moved, see `batch.kv.rotation.why_fixed`.
    """
    positions = torch.from_numpy(planned.plan.positions[computed.block])
    suffixes = [computed.cache.suffix(layer) for layer in layers]
    _, heads, tokens, head_dim = suffixes[0][0].shape
    device = suffixes[0][0].device
    rotation = family.rotation(positions).to(device)
    states = torch.empty(tokens, len(layers), 2, heads, head_dim, dtype=dtype, device=device)
    for place, (key, value) in enumerate(suffixes):
        states[:, place, 0] = unrotate(key[0].transpose(0, 1).to(device), rotation)
        states[:, place, 1] = value[0].transpose(0, 1)
    return states


class _Seen(NamedTuple):
    """A block, the pictures of its stored samples, and where their cells go."""

    block: slice
    samples: int
    """With tokens in this block, stored or not."""
    computed: NDArray[np.int64]
    """The block's tokens that enter the language model, rising."""
    places: NDArray[np.int64]
    """Of the cells among the computed tokens, int64 [cells]."""
    pictures: NDArray[np.uint8] | None
    """[stored, frames * height_px, width_px, 3] of samples with such cells; None: there is none."""
    features: NDArray[np.int64]
    """Which of the features, [stored * cells a sample], goes to each place."""


def _see(planned: CachePlan, block: slice) -> _Seen:
    """Decode the pictures of a block."""
    plan = planned.plan
    computed = np.flatnonzero(plan.is_computed[block])
    sample, cell = plan.sample[block][computed], plan.cell[block][computed]
    places = np.flatnonzero(cell >= 0)
    stored, picture = np.unique(sample[places], return_inverse=True)
    pictures = [planned.manifest.picture(int(index)) for index in stored]
    return _Seen(
        block=block,
        samples=len(np.setdiff1d(plan.sample[block], [-1])),
        computed=computed,
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
    """Embeddings [computed, hidden] of a block; only its pictures pass the vision tower."""
    token_ids = planned.plan.token_ids[seen.block][seen.computed]
    ids = torch.from_numpy(token_ids.astype(np.int64))
    embedded = family.text_embeddings(ids.to(family.device))
    if seen.pictures is not None:
        features = _features(seen.pictures, planned, family)
        chosen = features[torch.from_numpy(seen.features).to(features.device)]
        embedded[torch.from_numpy(seen.places).to(embedded.device)] = chosen.to(embedded)
    return embedded


def _features(pictures: NDArray[np.uint8], planned: CachePlan, family: Family) -> Tensor:
    """Embeddings [pictures * cells, hidden]; as many at a time as where all is computed."""
    size, geometry = planned.block_samples, planned.manifest.geometry
    starts = range(0, len(pictures), size)
    parts = [family.features(pictures[start : start + size], geometry) for start in starts]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(0, 1)


def _fill(
    cache: TieredCache,
    embedded: Tensor,
    seen: _Seen,
    planned: CachePlan,
    family: Family,
    sources: Sources,
) -> None:
    plan, block = planned.plan, seen.block
    own = plan.positions[block][seen.computed]
    positions = torch.from_numpy(own.T.astype(np.int64)).to(embedded.device)
    positions = positions if len(positions) == 1 else positions[:, None]
    stops, bias = plan.copies(block)
    columns = Block(reused=_reused_rows(plan, seen, family, sources))
    if bias is not None:
        columns = Block(stops=stops, bias=torch.from_numpy(bias).to(embedded.device))
    fill(family.language_model, embedded[None], positions, cache, columns)
    if plan.computed < len(plan.origin):
        cells = seen.computed[seen.places][::-1]
        place, last = np.unique(plan.cell[block][cells], return_index=True)
        rows = np.ascontiguousarray(cells[last])
        suffixes = [cache.suffix(layer) for layer in range(cache.prefix.shape.layers)]
        sources.keep(suffixes, torch.from_numpy(place.astype(np.int64)), torch.from_numpy(rows))


def _reused_rows(plan: Plan, seen: _Seen, family: Family, sources: Sources) -> ReusedRows | None:
    """Which rows of a block are made of which; None: all are computed."""
    block = seen.block
    rows = np.arange(block.start, block.stop)
    reused = np.flatnonzero(plan.origin[block] != rows)
    if not len(reused):
        return None
    origin = plan.origin[block][reused]
    within = sources.places + np.searchsorted(seen.computed, origin - block.start)
    rotation = between(
        family.rotation(torch.from_numpy(plan.positions[origin])),
        family.rotation(torch.from_numpy(plan.positions[block][reused])),
    )
    return ReusedRows(
        sources=sources,
        computed=torch.from_numpy(seen.computed),
        reused=torch.from_numpy(reused),
        origin=torch.from_numpy(np.where(origin < block.start, plan.cell[origin], within)),
        rotation=rotation,
    )


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
