"""Caches to ask: cut into segments, damaged in one tensor, of keys that cannot be moved."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

from batch.analysis.manifest import Manifest
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.segments import cut
from batch.models import Family
from batch.settings import CacheSettings, Quality
from cachefmt import CacheFile, CacheWriter, Header, Tables
from tests import tiny
from tests.tiny.files import loaded


def scaled(folder: Path, scaling: dict[str, Any]) -> Path:
    """A tiny LLaVA-1.6 whose decoder's rotations are of another kind."""
    file = tiny.llava_next(folder) / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["rope_parameters"] = scaling | {"rope_theta": 10_000.0}
    file.write_text(json.dumps(config))
    return folder


def unmovable(folder: Path) -> Family:
    """A model whose keys cannot be moved to other positions, so that its caches have no index."""
    return loaded(scaled(folder, {"rope_type": "dynamic", "factor": 2.0}))


def write_segments(
    family: Family,
    folder: Path,
    manifest: Manifest,
    context: int = 256 + 25,
    quality: Quality = "lossless",
) -> list[CacheFile]:
    """The cache of a video, open; of more than one segment."""
    settings = CacheSettings(quality=quality)
    found = []
    for part in cut(manifest, family.layout, context=context, positions="compact"):
        path = folder / f"{part.segment.number:05}.safetensors"
        prefill(plan_cache(manifest, family, settings, dtype="float32", span=part), family, path)
        found.append(CacheFile.open(path))
    assert len(found) > 1
    return found


def flip(cache: CacheFile, name: str, byte: int) -> CacheFile:
    """Another file with a changed byte in a tensor."""
    before = cache.names[: cache.names.index(name)]
    at = cache.header_size_bytes + sum(map(cache.tensor_bytes, before)) + byte
    content = bytearray(cache.path.read_bytes())
    content[at] ^= 192
    path = cache.path.with_name("damaged.safetensors")
    path.write_bytes(content)
    return CacheFile.open(path)


def rewrite(
    cache: CacheFile,
    path: Path,
    *,
    header: Header | None = None,
    tables: Tables | None = None,
    block: Callable[[bytes], bytes] = lambda data: data,
) -> CacheFile:
    """Another plain file, with digests that are right."""
    header = replace(header or cache.header, digests=None, header_sha256=None)
    tables = tables or cache.tables
    with CacheWriter(path, header, tables) as writer:
        for number in range(len(tables.blocks(header.codec.block_samples))):
            writer.write_block(number, 0, block(cache.block(number, 0)))
        if cache.index is not None:
            writer.write_index(cache.index)
        writer.finish([0.0, 1.0, 2.0])
    return CacheFile.open(path)


class PrefixesAlive:
    """A family that counts, whenever it is asked for one thing, the prefixes made since then."""

    def __init__(self, family: Family, asked_for: str) -> None:
        self._family = family
        self._asked_for = asked_for
        self.counts: list[int] = []

    def __enter__(self) -> Self:
        gc.freeze()  # what there is already is not looked at
        return self

    def __exit__(self, *error: object) -> None:
        gc.unfreeze()

    @property
    def family(self) -> Family:
        return cast(Family, self)

    def __getattr__(self, name: str) -> Any:
        if name == self._asked_for:
            self.counts.append(sum(type(thing) is Prefix for thing in gc.get_objects()))
        return getattr(self._family, name)
