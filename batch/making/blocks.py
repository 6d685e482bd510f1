"""Prefill block by block: encode, forward, quantise, append, write; and bounds of the keys.

A block attends to the tiers already stored and causally to itself, so memory above the weights
is the stored tiers and one block, for any length of video.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.kv import Prefix, TieredCache, forward
from batch.kv.rotation import rotation_of, unrotate
from batch.making.cache_plan import CachePlan
from batch.models import Family
from cachefmt import STORED_TIERS, CacheWriter, Tier, tensor_specs
from cachefmt.layout import BOUNDS, BOUNDS_TIER
from cachefmt.tables import first_rows


@dataclass(kw_only=True)
class Seconds:
    """Where the time of a prefill went: vision tower, language model, codecs, file."""

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

    `progress` is told the number of samples of each block when it is done.

    Raises:
        CacheFileError: the file cannot be written.
        ManifestError: a picture in the manifest is damaged.
    """
    plan, shape = planned.plan, planned.header.shape
    device = family.device
    prefix = Prefix.allocate(shape, family.layer_devices)
    in_file = plan.file_order
    for tier in plan.tokens:
        rows = in_file[np.asarray(shape.rows_of(tier), np.int64)]
        prefix.set_multiplicity(tier, torch.from_numpy(plan.multiplicity[rows]))
    seconds, bounds = Seconds(), _KeyBounds(planned)
    with CacheWriter(path, planned.header) as writer:
        _write_tables(writer, planned)
        for block in plan.blocks(planned.block_samples):
            started = time.perf_counter()
            embedded = _embed(planned, family, block)
            encoded = _finished(device)
            positions = torch.from_numpy(plan.positions[block].T.astype(np.int64)).to(device)
            positions = positions if len(positions) == 1 else positions[:, None]
            cache = TieredCache(prefix)
            bias = torch.from_numpy(plan.bias(block)).to(device)
            forward(family.language_model, embedded[None], positions, cache, bias=bias)
            seconds.encode += encoded - started
            bounds.add(block, cache, family)
            seconds.forward += _finished(device) - encoded
            _store(cache, prefix, writer, torch.from_numpy(plan.tier[block]), seconds)
            progress(len(np.unique(plan.sample[block][plan.sample[block] >= 0])))
        bounds.write(writer)
        run = seconds.forward + seconds.quantise + seconds.write
        cost = [planned.manifest.analyze_seconds, seconds.encode, run]
        writer.write("cost.seconds", 0, np.array(cost))
        started = time.perf_counter()
        writer.finish()
        seconds.write += time.perf_counter() - started
    return seconds


def _finished(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _embed(planned: CachePlan, family: Family, block: slice) -> Tensor:
    """Embeddings [tokens, hidden] of a block; its stored samples pass the vision tower once."""
    sample, cell = planned.plan.sample[block], planned.plan.cell[block]
    ids = torch.from_numpy(planned.plan.token_ids[block].astype(np.int64))
    embedded = family.text_embeddings(ids.to(family.device))
    is_cell = cell >= 0
    stored, picture = np.unique(sample[is_cell], return_inverse=True)
    if len(stored):
        pictures = np.stack([planned.manifest.picture(int(index)) for index in stored])
        features = family.features(pictures, planned.manifest.geometry)
        chosen = features[torch.from_numpy(picture), torch.from_numpy(cell[is_cell])]
        embedded[torch.from_numpy(is_cell)] = chosen.to(embedded)
    return embedded


def _store(
    cache: TieredCache, prefix: Prefix, writer: CacheWriter, tiers: Tensor, seconds: Seconds
) -> None:
    """Quantise a block's keys and values by tier, append them to the prefix and the file."""
    chosen = {tier: torch.nonzero(tiers == tier).flatten() for tier in STORED_TIERS}
    for layer in range(prefix.shape.layers):
        # [batch 1, heads, tokens, head_dim] to rows of tokens
        key, value = (states[0].transpose(0, 1) for states in cache.suffix(layer))
        for tier, rows in chosen.items():
            row = prefix.filled(layer, tier)
            picked = (states[rows.to(states.device)] for states in (key, value))
            if tier is Tier.FP16:
                picked = (states.to(prefix.raw_dtype) for states in picked)
            started = time.perf_counter()
            stored = prefix.append(layer, tier, *picked)
            quantised = _finished(key.device)
            for name, rows_of_tensor in stored.items():
                writer.write(name, row, _numpy(rows_of_tensor))
            seconds.quantise += quantised - started
            seconds.write += time.perf_counter() - quantised


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
    rows = rows.cpu()
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

    def add(self, block: slice, cache: TieredCache, family: Family) -> None:
        """Take the keys of a block, which are the whole suffix of `cache`."""
        plan, layers = self._plan, self._shape.index_layers
        sample = np.where(plan.cell[block] >= 0, plan.sample[block], -1)
        present = np.unique(sample[sample >= 0])
        if not layers or not len(present):
            return
        rotation = rotation_of(family.language_model, torch.from_numpy(plan.positions[block]))
        places = [torch.from_numpy(np.flatnonzero(sample == one)) for one in present]
        bounds = []
        for layer in layers:
            keys = cache.suffix(layer)[0][0].transpose(0, 1)
            bounds.append(_bounds(unrotate(keys, rotation.to(keys.device)), places))
        found = BOUNDS_TIER.codec.encode(torch.stack(bounds, 1), self._shape.group_size)
        rows = np.searchsorted(self._stored, present)
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


def _bounds(keys: Tensor, places: list[Tensor]) -> Tensor:
    """[samples, 2, heads, head_dim] of keys [tokens, heads, head_dim], by each sample's rows."""
    of_samples = (keys[rows.to(keys.device)] for rows in places)
    return torch.stack([torch.stack((own.amin(0), own.amax(0))).cpu() for own in of_samples])
