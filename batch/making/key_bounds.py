"""What a file will be searched by: bounds of each stored sample's keys, gathered block by block."""

import numpy as np
import torch
from torch import Tensor

from batch.analysis.manifest import Manifest
from batch.kv import TieredCache
from batch.kv.rotation import rotation_of, unrotate
from batch.making.plan import Plan
from batch.models import Family
from cachefmt import STORED_TIERS, CacheWriter, Shape, tensor_specs
from cachefmt.layout import BOUNDS, BOUNDS_TIER
from cachefmt.tables import first_rows


class KeyBounds:
    """The smallest and the largest number of each channel in a sample's keys, rotation undone.

    As small in memory as in the file. A sample that stores no cell has zeros.

    Source: bounds of the keys of a page are Quest's (arXiv 2406.10774), keys without their
    position are ReKV's (arXiv 2503.00540), which takes their mean.
    """

    def __init__(self, shape: Shape, plan: Plan, manifest: Manifest) -> None:
        """Know no key yet."""
        self._shape = shape
        self._plan = plan
        self._stored = np.flatnonzero(manifest.kept)
        specs = tensor_specs(shape)
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
        """Write the whole index."""
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
