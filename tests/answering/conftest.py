"""A cache with every tier, pruned cells and pointers, and its tiny model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from batch.answering import Answerer
from batch.models import Family, open_family
from batch.prefill import plan_cache, prefill
from cachefmt import CacheFile
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="package")
def family(checkpoint: Path) -> Family:
    opened = open_family(str(checkpoint))
    opened.load(device="cpu", dtype=torch.float32)
    return opened


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
