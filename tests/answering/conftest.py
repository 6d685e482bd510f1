"""A cache with every tier, pruned cells and pointers, and its tiny model."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.answering import Answerer
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.segments import cut
from batch.models import Family, open_family
from cachefmt import CacheFile
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="package")
def llava(checkpoint: Path) -> Family:
    opened = open_family(str(checkpoint))
    opened.load(device="cpu", dtype=torch.float32)
    return opened


@pytest.fixture(scope="package")
def family(llava: Family) -> Family:
    return llava


@pytest.fixture(scope="package")
def cache(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "x.safetensors"
    tiers = np.random.default_rng(1).integers(0, 4, (6, geometry_of(family).cells), dtype=np.uint8)
    pictures = random_pictures(6, geometry_of(family))
    manifest = make_manifest(pictures, geometry_of(family), tier=tiers, source=[0, 0, 2, 3, 3, 5])
    prefill(plan_cache(manifest, family, dtype="float32"), family, path)
    return path


@pytest.fixture
def answerer(cache: Path, family: Family) -> Answerer:
    return Answerer(CacheFile.open(cache), family)


@pytest.fixture
def segments(llava: Family, tmp_path: Path) -> Iterator[list[CacheFile]]:
    """A video of eight samples in segments; all rows are FP16."""
    geometry = llava.geometry.for_video(64, 64, 16)
    manifest = make_manifest(
        random_pictures(8, geometry), geometry, source=[0, 1, 2, 2, 4, 5, 6, 7]
    )
    context = 256 + 25
    with ExitStack() as opened:
        found = []
        for part in cut(manifest, llava.layout, context=context, positions="compact"):
            path = tmp_path / f"{part.segment.number:05}.safetensors"
            prefill(plan_cache(manifest, llava, dtype="float32", span=part), llava, path)
            found.append(opened.enter_context(CacheFile.open(path)))
        assert len(found) == 2
        yield found
