"""What prefill stores answers as the model itself would; blocks and files change nothing."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.demo.drawing import draw
from batch.demo.world import random_world
from batch.errors import ManifestError
from batch.evaluation.uncompressed import Uncompressed
from batch.kv import Prefix
from batch.kv.rotation import rotate, rotation_of
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.computing import allocate, compute, keep, unrotated
from batch.making.plan import Plan, make_plan
from batch.models import Family
from batch.settings import CacheSettings
from batch.video import Footage, Geometry
from cachefmt import STORED_TIERS, CacheFile, CacheFileError, Tier
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.files import loaded

QUESTIONS = ["what is the red star doing ?", "a b c", "the star ?"]
SAMPLES = 5
Write = Callable[..., CacheFile]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.llava_next(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def family(checkpoint: str) -> Family:
    return loaded(checkpoint)


@pytest.fixture
def write(family: Family, tmp_path: Path) -> Write:
    """Prefill a manifest into a plain file of exact raw rows, by default, and open it."""

    def written(
        manifest: Manifest, block_samples: int = 8, raw_dtype: str = "F32", **options: Any
    ) -> CacheFile:
        settings = CacheSettings(
            **{"quality": "lossless", "block_samples": block_samples, **options}
        )
        work = plan_cache(manifest, family, settings, dtype="float32", raw_dtype=raw_dtype)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        prefill(work, family, path)
        assert path.stat().st_size <= work.size_bytes
        assert path.stat().st_size == work.size_bytes or work.header.codec.name == "klt"
        return CacheFile.open(path)

    return written


def scores(cache: CacheFile, family: Family) -> Tensor:
    answerer = PrefixAnswerer.of_cache(cache, family)
    return torch.stack([answerer.next_token_scores(question) for question in QUESTIONS])


def mixed_tiers(geometry: Geometry) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 4, (SAMPLES, geometry.cells), dtype=np.uint8)


def filmed(family: Family, **given: Any) -> Manifest:
    geometry = geometry_of(family)
    return make_manifest(random_pictures(SAMPLES, geometry), geometry, **given)


def uncompressed(family: Family, pictures: NDArray[np.uint8]) -> Uncompressed:
    return Uncompressed(family, pictures, Footage.steady(geometry_of(family), len(pictures)))


@pytest.mark.parametrize("decoder", tiny.DECODERS)
@pytest.mark.parametrize("block_samples", [1, 2, 8])
def test_with_nothing_pruned_the_scores_are_transformers_own(
    tmp_path: Path, decoder: str, block_samples: int
) -> None:
    folder = str(tiny.llava_next(tmp_path / "model", decoder=decoder))
    family = loaded(folder)
    pictures = random_pictures(SAMPLES, geometry_of(family))
    own = uncompressed(loaded(folder), pictures)
    expected = torch.stack([own.next_token_scores(question) for question in QUESTIONS])
    work = plan_cache(
        make_manifest(pictures, geometry_of(family)),
        family,
        CacheSettings(block_samples=block_samples, quality="lossless"),
        dtype="float32",
        raw_dtype="F32",
    )
    prefill(work, family, tmp_path / "x.safetensors")
    with CacheFile.open(tmp_path / "x.safetensors") as cache:
        torch.testing.assert_close(scores(cache, family), expected, atol=1e-4, rtol=1e-4)
    other = uncompressed(loaded(folder), pictures[::-1].copy())
    assert (other.next_token_scores(QUESTIONS[0]) - expected[0]).abs().max() > 1e-2


def test_pruned_cells_answer_as_if_the_model_had_never_seen_them(
    family: Family, checkpoint: str, write: Write
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    tiers = np.where(mixed_tiers(geometry_of(family)) == Tier.PRUNE, Tier.PRUNE, Tier.FP16)
    manifest = make_manifest(
        pictures, geometry_of(family), tier=tiers.astype(np.uint8), source=[0, 1, 1, 3, 4]
    )
    got = scores(write(manifest, reuse="none"), family)
    plan = make_plan(manifest, family.layout, context=1024, reuse="none")
    expected = _scores_of_kept_slots(loaded(checkpoint), plan, pictures)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    full = scores(write(make_manifest(pictures, geometry_of(family))), family)
    assert (got - full).abs().max() > 1e-2


def _scores_of_kept_slots(family: Family, plan: Plan, pictures: NDArray[np.uint8]) -> Tensor:
    """Transformers' own decoder over the kept slots at their positions, and each question."""
    family.language_model.set_attn_implementation("sdpa")
    found = []
    with torch.inference_mode():
        prefix = family.text_embeddings(torch.from_numpy(plan.token_ids).long())
        cells = plan.cell >= 0
        prefix[cells] = family.features(pictures, geometry_of(family))[
            plan.sample[cells], plan.cell[cells]
        ]
        for question in QUESTIONS:
            ids = torch.tensor(family.question_ids(question))
            embedded = torch.cat([prefix, family.text_embeddings(ids)])
            own = plan.next_position[0] + np.arange(len(ids))
            positions = torch.from_numpy(np.append(plan.positions[:, 0], own)).long()
            causal = torch.ones(len(embedded), len(embedded)).tril().bool()
            hidden = family.language_model(
                inputs_embeds=embedded[None],
                position_ids=positions[None],
                attention_mask=causal[None, None],
            ).last_hidden_state
            found.append(family.logits(hidden[0, -1]))
    return torch.stack(found)


@pytest.mark.parametrize("source", [[0, 1, 2, 3, 4], [0, 0, 0, 3, 3]])
def test_the_size_of_a_block_changes_nothing(
    family: Family, write: Write, source: list[int]
) -> None:
    tiers = np.where(mixed_tiers(geometry_of(family)) == Tier.PRUNE, Tier.PRUNE, Tier.FP16)
    manifest = filmed(family, tier=tiers.astype(np.uint8), source=source)
    one, two, all_at_once = (scores(write(manifest, size), family) for size in (1, 2, 8))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one, all_at_once, atol=1e-5, rtol=1e-5)


def test_a_pointer_counts_as_a_copy_only_if_asked(family: Family, write: Write) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    manifest = make_manifest(pictures, geometry_of(family), source=[0, 0, 0, 3, 4])
    counted = scores(write(manifest), family)
    once = scores(write(manifest, reuse="none"), family)
    assert (counted - once).abs().max() > 1e-3


def test_quantised_tiers_stay_near_and_int4_is_the_coarser(family: Family, write: Write) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    shape = (SAMPLES, geometry_of(family).cells)
    found = {
        tier: scores(
            write(
                make_manifest(pictures, geometry_of(family), tier=np.full(shape, tier, np.uint8))
            ),
            family,
        )
        for tier in (Tier.FP16, Tier.INT8, Tier.INT4)
    }
    error = {tier: float((found[tier] - found[Tier.FP16]).abs().max()) for tier in found}
    assert 0 < error[Tier.INT8] < error[Tier.INT4]
    assert error[Tier.INT8] < 0.05 * float(found[Tier.FP16].std())


def test_a_file_says_of_each_stored_token_what_the_manifest_has(
    family: Family, write: Write
) -> None:
    tiers = mixed_tiers(geometry_of(family))
    manifest = filmed(family, tier=tiers, source=[0, 1, 1, 3, 4])
    cache = write(manifest, block_samples=2)
    cache.verify()
    tables = cache.tables
    cells = tables.cell >= 0
    for tier in (Tier.FP16, Tier.INT8, Tier.INT4):
        rows = cells & (tables.tier == tier)
        stored = set(zip(tables.sample[rows].tolist(), tables.cell[rows].tolist(), strict=True))
        assert stored == {(s, c) for s, c in np.argwhere(manifest.tier == tier).tolist()}
    assert (tables.tier[~cells] == Tier.FP16).all()
    assert tables.source.tolist() == [0, 1, 1, 3, 4]
    assert not (tables.sample == 2).any()


@pytest.mark.parametrize("prefilled", [1, 2, 8])
def test_blocks_of_a_plain_file_hold_what_memory_held(
    family: Family, tmp_path: Path, prefilled: int
) -> None:
    manifest = filmed(family, tier=mixed_tiers(geometry_of(family)))
    settings = CacheSettings(block_samples=prefilled, quality="lossless")
    work = plan_cache(manifest, family, settings, dtype="float32")
    held = allocate(work, family)
    with closing(compute(work, family, held)) as blocks:
        for computed in blocks:
            keep(computed.cache, work.plan.tier[computed.block])
    for size in (1, 2, 4, 9):
        codec = replace(work.header.codec, block_samples=size)
        path = tmp_path / f"{size}.safetensors"
        prefill(replace(work, header=replace(work.header, codec=codec)), family, path)
        with CacheFile.open(path) as cache:
            assert len(cache.blocks) == -(-SAMPLES // size)
            assert_same_rows(Prefix.load(cache, "cpu"), held)


def assert_same_rows(one: Prefix, other: Prefix) -> None:
    assert one.tokens == other.tokens > 0
    for tier in STORED_TIERS:
        pairs = zip(one.rows(tier, slice(None)), other.rows(tier, slice(None)), strict=True)
        assert all(torch.equal(*both) for parts in pairs for both in zip(*parts, strict=True))


@pytest.mark.parametrize("prefilled", [1, 3, 8])
def test_a_small_file_answers_nearly_as_memory_and_the_finer_the_nearer(
    family: Family, write: Write, prefilled: int
) -> None:
    manifest = filmed(family, source=[0, 1, 1, 3, 4])
    exact = write(manifest, prefilled)
    expected = scores(exact, family)
    errors, sizes = [], [exact.size_bytes]
    for quality in ("high", "small"):
        cache = write(manifest, prefilled, quality=quality)
        cache.verify()
        assert (cache.header.codec.name, cache.header.codec.quality) == ("klt", quality)
        errors.append(float((scores(cache, family) - expected).abs().max()))
        sizes.append(cache.size_bytes)
    assert 0 < errors[0] < errors[1]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_the_same_prefill_twice_differs_in_nothing_but_its_cost(
    family: Family, write: Write
) -> None:
    manifest = filmed(family, tier=mixed_tiers(geometry_of(family)))
    for quality in ("lossless", "standard"):
        one, two = write(manifest, quality=quality), write(manifest, quality=quality)
        blocks = range(len(one.blocks))
        assert one.size_bytes == two.size_bytes
        assert one.tables.pack() == two.tables.pack()
        assert [one.block(number, 0) for number in blocks] == [
            two.block(number, 0) for number in blocks
        ]
        assert replace(one.header, digests=None, header_sha256=None) == replace(
            two.header, digests=None, header_sha256=None
        )


def test_prefill_tells_each_part_of_the_time_that_its_file_has_as_a_whole(
    family: Family, tmp_path: Path
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    work = plan_cache(make_manifest(pictures, geometry_of(family)), family, dtype="float32")
    seconds = prefill(work, family, tmp_path / "x.safetensors")
    assert min(seconds.encode, seconds.forward, seconds.quantise, seconds.write) > 0
    with CacheFile.open(tmp_path / "x.safetensors") as cache:
        _, encode, run = cache.cost_seconds.tolist()
    assert encode == seconds.encode
    assert seconds.forward + seconds.quantise < run < sum(vars(seconds).values())


def test_a_disk_that_fills_up_behind_the_computation_leaves_no_file(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    settings = CacheSettings(block_samples=1)
    work = plan_cache(
        make_manifest(pictures, geometry_of(family)), family, settings, dtype="float32"
    )
    write, main, refused = os.pwrite, threading.get_ident(), []

    def fill_up(file: int, block: Any, offset: int) -> int:
        if threading.get_ident() != main:
            refused.append(offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, block, offset)

    monkeypatch.setattr(os, "pwrite", fill_up)
    with pytest.raises(CacheFileError, match=r"x\.safetensors: cannot write \d+ bytes: No space"):
        prefill(work, family, tmp_path / "x.safetensors")
    assert refused
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_between_blocks_leaves_no_file(family: Family, tmp_path: Path) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    settings = CacheSettings(block_samples=2)
    work = plan_cache(
        make_manifest(pictures, geometry_of(family)), family, settings, dtype="float32"
    )

    def interrupt(samples: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefill(work, family, tmp_path / "x.safetensors", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_picture_of_a_later_block_is_named_and_leaves_no_file(
    family: Family, tmp_path: Path
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    manifest = make_manifest(pictures, geometry_of(family))
    damaged = [*manifest.pictures[:3], b"no picture", *manifest.pictures[4:]]
    settings = CacheSettings(block_samples=1)
    work = plan_cache(replace(manifest, pictures=damaged), family, settings, dtype="float32")
    with pytest.raises(ManifestError, match="the picture of sample 3 is damaged"):
        prefill(work, family, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_closed_gaps_stand_as_if_the_pointers_had_never_been_sampled(
    family: Family, write: Write
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    tiers = np.where(mixed_tiers(geometry_of(family)) == Tier.PRUNE, Tier.PRUNE, Tier.FP16)
    pointing = make_manifest(
        pictures, geometry_of(family), tier=tiers.astype(np.uint8), source=[0, 0, 2, 2, 4]
    )
    sparse = make_manifest(pictures[::2], geometry_of(family), tier=tiers[::2].astype(np.uint8))
    got = scores(write(pointing, reuse="none"), family)
    torch.testing.assert_close(got, scores(write(sparse), family), atol=1e-5, rtol=1e-5)
    gappy = scores(write(pointing, reuse="none", positions="original"), family)
    assert (got - gappy).abs().max() > 1e-3


def test_the_demo_model_with_nothing_pruned_scores_as_transformers_does(tmp_path: Path) -> None:
    family = loaded("demo")
    world = random_world(np.random.default_rng([4, 0]), 5)
    pictures = np.stack([geometry_of(family).apply(draw(world, k, 224)) for k in range(5)])
    question = "what colour is the bead ?"
    expected = uncompressed(loaded("demo"), pictures).next_token_scores(question)
    manifest = make_manifest(pictures, geometry_of(family))
    settings = CacheSettings(block_samples=2, quality="lossless")
    work = plan_cache(manifest, family, settings, dtype="float32", raw_dtype="F32")
    prefill(work, family, tmp_path / "x.safetensors")
    with CacheFile.open(tmp_path / "x.safetensors") as cache:
        got = PrefixAnswerer.of_cache(cache, family).next_token_scores(question)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    other = uncompressed(loaded("demo"), pictures[::-1].copy()).next_token_scores(question)
    assert (got - other).abs().max() > 1e-2


def test_keys_without_their_position_are_those_that_rotate_to_the_stored_ones(
    family: Family,
) -> None:
    pictures = random_pictures(SAMPLES, geometry_of(family))
    settings = CacheSettings(block_samples=2)
    work = plan_cache(
        make_manifest(pictures, geometry_of(family)), family, settings, dtype="float32"
    )
    prefix = allocate(work, family)
    layers = range(family.decoder.layers)
    tokens = 0
    with closing(compute(work, family, prefix)) as blocks:
        for computed in blocks:
            states = unrotated(computed, work, family, layers)
            positions = torch.from_numpy(work.plan.positions[computed.block])
            rotation = rotation_of(family.language_model, positions)
            for layer in layers:
                key, value = (kind[0].transpose(0, 1) for kind in computed.cache.suffix(layer))
                torch.testing.assert_close(rotate(states[:, layer, 0], rotation), key)
                assert torch.equal(states[:, layer, 1], value)
                assert (states[:, layer, 0] - key).abs().max() > 1e-2
            keep(computed.cache, work.plan.tier[computed.block])
            tokens += len(states)
    assert prefix.tokens == tokens == len(work.plan.tier)
