"""What a dry run expects of memory is about what a prefill then takes."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.evaluation.measuring import peak_allocated
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.making.memory import Memory, estimate_memory
from batch.models import Family, open_family
from batch.settings import CacheSettings
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.families import TINY
from tests.tiny.files import loaded


@pytest.fixture(scope="module", params=["demo", "tiny"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("model")
    name = "demo"
    if request.param == "tiny":
        name = str(tiny.llava_next(folder, image_px=112, context=8192, width=2))
    return open_family(name)


def planned(family: Family, samples: int, dtype: str = "float32") -> CachePlan:
    geometry = geometry_of(family)
    manifest = make_manifest(random_pictures(samples, geometry), geometry)
    return plan_cache(manifest, family, dtype=dtype, identify_weights=False)


def expected(family: Family, samples: int, dtype: str = "float32") -> Memory:
    return estimate_memory(planned(family, samples, dtype), family)


def test_weights_are_exact(family: Family) -> None:
    promised = expected(family, 12)
    family.load(device="cpu", dtype=torch.float32)
    assert promised.weights_bytes == sum(weight.nbytes for weight in family.model.parameters())
    assert promised.peak_bytes == sum(astuple(promised))


def test_the_demo_model_takes_what_was_expected_within_a_quarter(tmp_path: Path) -> None:
    family = loaded("demo")
    work, promised = planned(family, 12), expected(family, 12)
    taken = peak_allocated(lambda: prefill(work, family, tmp_path / "x.safetensors"))
    assert 0.75 * taken < promised.tiers_bytes + promised.block_bytes < 1.25 * taken


@pytest.mark.parametrize("model_type", TINY)
def test_every_family_takes_half_to_twice_of_what_was_expected(
    model_type: str, tmp_path: Path
) -> None:
    family = loaded(TINY[model_type](tmp_path))
    geometry = family.geometry.for_video(128, 128, 16)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    work = plan_cache(manifest, family, dtype="float32")
    taken = peak_allocated(lambda: prefill(work, family, tmp_path / "x.safetensors"))
    promised = estimate_memory(work, family)
    assert 0.5 * taken < promised.tiers_bytes + promised.block_bytes < 2 * taken


def test_only_the_tiers_grow_with_the_video(family: Family) -> None:
    short, long = expected(family, 16), expected(family, 56)
    assert long.tiers_bytes > 3.4 * short.tiers_bytes
    assert (long.weights_bytes, long.block_bytes) == (short.weights_bytes, short.block_bytes)


def test_half_the_type_is_half_the_weights(family: Family) -> None:
    full, half = expected(family, 8), expected(family, 8, "bfloat16")
    assert full.weights_bytes is not None
    assert half.weights_bytes == full.weights_bytes // 2
    assert half.block_bytes < full.block_bytes


def test_what_tokens_see_of_reused_rows_is_counted(tmp_path: Path) -> None:
    """A sample, and then seven in which next to nothing changed, in one block."""
    family = open_family(str(tiny.llava_next(tmp_path, image_px=224, context=8192)))
    geometry = geometry_of(family)
    static = np.ones((8, geometry.cells), bool)
    static[0] = static[1:, :128] = False
    manifest = make_manifest(random_pictures(8, geometry), geometry, static=static)
    settings = CacheSettings(reuse="cells", block_samples=8, quality="lossless")
    work = plan_cache(manifest, family, settings, dtype="float32")
    promised = estimate_memory(work, family)
    on_cuda = estimate_memory(work, family, torch.device("cuda"))
    mask = work.plan.computed * len(work.plan.origin)
    family.load(device="cpu", dtype=torch.float32)
    taken = peak_allocated(lambda: prefill(work, family, tmp_path / "x.safetensors"))
    assert 0.75 * taken < promised.tiers_bytes + promised.block_bytes < 1.35 * taken
    assert on_cuda.block_bytes > promised.block_bytes > 4 * mask
