"""A cache with every tier, pruned cells and pointers, and its tiny model."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from batch.answering import PrefixAnswerer
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from batch.settings import CacheSettings
from cachefmt import CacheFile
from tests import tiny
from tests.answering.caches import loaded, write_segments
from tests.manifests import geometry_of, make_manifest, random_pictures


@pytest.fixture(scope="package")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return loaded(tiny.llava_next(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="package")
def cache(llava: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "x.safetensors"
    geometry = geometry_of(llava)
    tiers = np.random.default_rng(1).integers(0, 4, (6, geometry.cells), dtype=np.uint8)
    pictures = random_pictures(6, geometry)
    manifest = make_manifest(pictures, geometry, tier=tiers, source=[0, 0, 2, 3, 3, 5])
    settings = CacheSettings(quality="lossless")
    prefill(plan_cache(manifest, llava, settings, dtype="float32"), llava, path)
    return path


@pytest.fixture(scope="package")
def answerer(cache: Path, llava: Family) -> PrefixAnswerer:
    with CacheFile.open(cache) as file:
        return PrefixAnswerer.of_cache(file, llava)


@pytest.fixture(scope="package")
def folder(llava: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of eight samples in two segments, not to be written to; all rows are FP16."""
    folder = tmp_path_factory.mktemp("x.segments")
    geometry = llava.geometry.for_video(64, 64, 16)
    source = [0, 1, 2, 2, 4, 5, 6, 7]
    manifest = make_manifest(random_pictures(8, geometry), geometry, source=source)
    found = write_segments(llava, folder, manifest)
    assert len(found) == 2
    for segment in found:
        segment.close()
    return folder


@pytest.fixture
def segments(folder: Path, tmp_path: Path) -> Iterator[list[CacheFile]]:
    """Those of the folder, open; a test may write beside them."""
    with ExitStack() as opened:
        found = []
        for file in sorted(folder.iterdir()):
            copy = tmp_path / file.name
            copy.hardlink_to(file)
            found.append(opened.enter_context(CacheFile.open(copy)))
        yield found
