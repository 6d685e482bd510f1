"""What prefill and answering allocate beyond the stored rows does not depend on the video's length.

Counted in torch's allocator, so the same on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.evaluation.measuring import peak_allocated
from batch.evaluation.uncompressed import Uncompressed
from batch.kv import Prefix, attention
from batch.making import file_blocks
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from batch.settings import CacheSettings
from batch.video import Footage
from cachefmt import CacheFile, Tier
from cachefmt.layout import kv_bytes
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.files import loaded

SHORT, LONG = 48, 144
"""Both have several blocks of a file, of which one is filled while another is encoded."""
BLOCKS = CacheSettings(block_samples=2)
"""Small ones: the short video has many, and they attend to stored rows too."""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("llava")
    return loaded(tiny.llava_next(folder, image_px=112, context=16_384))


@pytest.fixture(scope="module", autouse=True)
def small_buffers(family: Family) -> Iterator[int]:
    """Bytes of the buffers for keys and for values, which the short video fills too."""
    numbers = 1 << 13
    shape = family.decoder
    assert SHORT * geometry_of(family).cells * shape.heads * shape.head_dim >= numbers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK_NUMBERS", numbers)
        # The file's own bases are made of what the short video has, too.
        patch.setattr(file_blocks, "FITTED_NUMBERS", 1)
        yield 2 * numbers * 4


@dataclass(frozen=True, kw_only=True)
class Made:
    """A cache, and the peak of making it beyond its rows in memory."""

    path: Path
    rows_bytes: int
    beyond_bytes: int


@pytest.fixture(
    scope="module",
    params=[(Tier.INT4, "standard", "none"), (Tier.INT8, "lossless", "cells")],
    ids=str,
)
def made(
    family: Family, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[int, Made]:
    """By the number of samples, every cell in one tier, half of them reused if any are."""
    found = {}
    tier, quality, reuse = request.param
    settings = replace(BLOCKS, quality=quality, reuse=reuse)
    for samples in (SHORT, LONG):
        path = tmp_path_factory.mktemp("made") / f"{samples}.safetensors"
        plan = plan_cache(manifest(samples, family, tier), family, settings, dtype="float32")
        assert plan.header.codec.quality == quality
        assert (plan.plan.computed < 0.6 * plan.header.shape.token_count) == (reuse == "cells")
        rows_bytes = kv_bytes(plan.header.shape)
        peak = peak_allocated(lambda: prefill(plan, family, path))  # noqa: B023  # called at once
        found[samples] = Made(path=path, rows_bytes=rows_bytes, beyond_bytes=peak - rows_bytes)
    return found


def manifest(samples: int, family: Family, tier: Tier) -> Manifest:
    geometry = geometry_of(family)
    tiers = np.full((samples, geometry.cells), tier, np.uint8)
    static = np.zeros(tiers.shape, bool)
    static[:, geometry.cells // 4 :] = True
    return make_manifest(random_pictures(samples, geometry), geometry, tier=tiers, static=static)


def test_prefill_allocates_the_stored_rows_and_one_block(made: dict[int, Made]) -> None:
    # Where a block is encoded while others are computed, the clock decides what comes together.
    assert 0 < made[LONG].beyond_bytes < 1.25 * made[SHORT].beyond_bytes


def test_the_same_measure_sees_an_uncompressed_prefill_grow(family: Family) -> None:
    geometry = geometry_of(family)

    def peak(samples: int) -> int:
        footage = Footage.steady(geometry, samples)
        pictures = random_pictures(samples, geometry)
        return peak_allocated(lambda: Uncompressed(family, pictures, footage))

    short, long = peak(SHORT), peak(LONG)
    assert long > 2.9 * short


def test_answering_allocates_a_buffer_and_a_share_of_attention_for_each_row(
    family: Family, made: dict[int, Made], small_buffers: int
) -> None:
    peaks, rows = {}, {}
    for samples, one in made.items():
        with CacheFile.open(one.path) as cache:
            answerer = PrefixAnswerer.of_cache(cache, family)
            rows[samples] = cache.header.shape.token_count
        peaks[samples] = peak_allocated(
            lambda: list(answerer.ask_all(["a b", "c"], max_new_tokens=3))  # noqa: B023  # called at once
        )
    # Float32, of two questions and of the neutral one.
    shares_bytes = 4 * 3 * (rows[LONG] - rows[SHORT])
    assert peaks[LONG] - peaks[SHORT] < 1.25 * shares_bytes
    assert peaks[SHORT] < 3 * small_buffers


def test_loading_allocates_the_rows_and_a_block(family: Family, made: dict[int, Made]) -> None:
    beyond = {}
    for samples, one in made.items():
        with CacheFile.open(one.path) as cache:
            peak = peak_allocated(lambda: Prefix.load(cache, "cpu", family.rotation))
        beyond[samples] = peak - one.rows_bytes
    assert 0 < beyond[LONG] < 1.05 * beyond[SHORT]
