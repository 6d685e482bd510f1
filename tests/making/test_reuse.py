"""Reused cells: which row each is made of, and that the model sees it where it stands."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.evaluation.uncompressed import Uncompressed
from batch.kv import CACHE_KEYWORD
from batch.kv.rotation import rotate
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.making.computing import allocate, compute, keep, unrotated
from batch.making.maker import CacheMaker
from batch.making.plan import Plan, sources_of
from batch.models import Family, open_model
from batch.settings import CacheSettings, ModelSettings
from batch.video import Footage
from cachefmt import CacheFile, Tier
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.models.parity import loaded
from tests.tiny.families import TINY

QUESTION = "what is the red star doing ?"
SAMPLES = 5
SOURCE = [0, 1, 2, 2, 4]
MERGED = "qwen2_5_vl"
"""Its samples are two frames, its positions have three axes."""
each_kind = pytest.mark.parametrize("name", ["llava_next", MERGED])


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    names = ("llava_next", MERGED)
    return {name: loaded(TINY[name](tmp_path_factory.mktemp(name))) for name in names}


def filmed(family: Family, **given: Any) -> Manifest:
    """A sample static as a whole, one but for a corner, one a pointer, some cells not stored."""
    geometry = family.geometry.for_video(56, 56, 1)
    shape = (SAMPLES, geometry.cells)
    draws = np.random.default_rng(7)
    static = np.ones(shape, bool)
    static[0] = static[2, 0] = static[4] = False
    tier = np.where(draws.random(shape) < 0.15, Tier.PRUNE, Tier.FP16).astype(np.uint8)
    chosen: dict[str, Any] = {"source": SOURCE, "static": static, "tier": tier} | given
    return make_manifest(random_pictures(SAMPLES, geometry), geometry, **chosen)


def planned(manifest: Manifest, family: Family, block_samples: int = 2) -> CachePlan:
    settings = CacheSettings(reuse="cells", block_samples=block_samples, quality="lossless")
    return plan_cache(manifest, family, settings, dtype="float32", raw_dtype="F32")


def scores(work: CachePlan, family: Family, folder: Path) -> Tensor:
    path = folder / "x.safetensors"
    prefill(work, family, path)
    with CacheFile.open(path) as cache:
        return PrefixAnswerer.of_cache(cache, family).next_token_scores(QUESTION)


def test_a_static_cell_goes_back_to_the_last_that_was_computed_at_its_place(
    families: dict[str, Family],
) -> None:
    small = families["llava_next"].geometry.for_video(56, 56, 1)
    geometry = replace(small, height_px=56, width_px=56, rows=4, columns=4)
    static = np.ones((SAMPLES, geometry.cells), bool)
    tier = np.full(static.shape, Tier.FP16, np.uint8)
    static[0] = static[2, 0] = False  # it changed, and the cells beside it are computed too
    tier[2, 2] = Tier.PRUNE  # neither it nor its pointer is stored
    tier[0, 3] = Tier.PRUNE  # nothing was computed of what the second sample shows
    pictures = random_pictures(SAMPLES, geometry)
    manifest = make_manifest(pictures, geometry, source=SOURCE, static=static, tier=tier)
    found = sources_of(manifest)
    assert found[:, [0, 1, 5, 2, 3, 6]].T.tolist() == [
        [0, 0, 2, 2, 2],
        [0, 0, 2, 2, 2],
        [0, 0, 2, 2, 2],
        [0, 0, -1, -1, 0],
        [-1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]
    raised = sources_of(replace(manifest, threshold_scale=2.0))
    assert raised[2, [0, 1, 5, 6]].tolist() == [2, 0, 0, 0]  # for a budget, without neighbours


@each_kind
def test_scores_equal_transformers_over_one_slot_after_another(
    families: dict[str, Family], tmp_path: Path, name: str
) -> None:
    """Its cache gets the rows of a reused cell by hand; blocks of any size come out the same."""
    family, manifest = families[name], filmed(families[name])
    works = [planned(manifest, family, size) for size in (1, 2, 8)]
    plan = works[0].plan
    assert 0.3 < plan.computed / len(plan.origin) < 0.8
    got = [scores(work, family, tmp_path) for work in works]
    expected = _scores_slot_by_slot(family, plan, manifest)
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got[1], got[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[2], got[0], atol=1e-5, rtol=1e-5)
    computed = filmed(family, static=np.zeros_like(manifest.signals.static))
    assert (scores(planned(computed, family), family, tmp_path) - expected).abs().max() > 1e-2


def _scores_slot_by_slot(family: Family, plan: Plan, manifest: Manifest) -> Tensor:
    """Transformers' decoder over computed slots, one at a time; reused rows are put between."""
    decoder, implementation = family.language_model, family.language_model.config
    kept = implementation._attn_implementation
    decoder.set_attn_implementation("eager")
    cache = DynamicCache()
    with torch.inference_mode():
        embedded = family.text_embeddings(torch.from_numpy(plan.token_ids).long())
        for row in np.flatnonzero(plan.is_computed & (plan.cell >= 0)).tolist():
            picture = manifest.picture(int(plan.sample[row]))[None]
            embedded[row] = family.features(picture, manifest.geometry)[0, plan.cell[row]]
        rotations = family.rotation(torch.from_numpy(plan.positions))
        for row, origin in enumerate(plan.origin.tolist()):
            if row == origin:
                _run(decoder, embedded[row : row + 1], plan.positions[row : row + 1], cache)
                continue
            layers: list[Any] = cache.layers
            for layer in layers:
                away = rotations.cos[origin], -rotations.sin[origin]
                to = rotations.cos[row], rotations.sin[row]
                key = _turned(_turned(layer.keys[:, :, origin], *away), *to)
                layer.keys = torch.cat([layer.keys, key[:, :, None]], 2)
                layer.values = torch.cat([layer.values, layer.values[:, :, origin, None]], 2)
        asked = family.question_ids(QUESTION)
        places = np.array(plan.next_position) + np.arange(len(asked))[:, None]
        for ids, place in zip(asked, places, strict=True):
            hidden = _run(decoder, family.text_embeddings(torch.tensor([ids])), place[None], cache)
        found = family.logits(hidden[0, -1])
    decoder.set_attn_implementation(kept)
    return found


def _turned(key: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Source: apply_rotary_pos_emb of transformers 5.23."""
    first, second = key.chunk(2, -1)
    return key * cos + torch.cat((-second, first), -1) * sin


def _run(decoder: Any, embedded: Tensor, place: NDArray[np.int32], cache: DynamicCache) -> Tensor:
    ids = torch.from_numpy(place.T.astype(np.int64))
    hidden: Tensor = decoder(
        inputs_embeds=embedded[None],
        position_ids=ids if len(ids) == 1 else ids[:, None],
        **{CACHE_KEYWORD: cache},
        use_cache=True,
    ).last_hidden_state
    return hidden


@each_kind
def test_a_reused_row_is_its_source_turned_to_its_own_position(
    families: dict[str, Family], name: str
) -> None:
    family = families[name]
    work = planned(filmed(family), family)
    plan, prefix = work.plan, allocate(work, family)
    parts = []
    with closing(compute(work, family, prefix)) as blocks:
        for computed in blocks:
            keep(computed.cache, plan.tier[computed.block])
            parts.append(unrotated(computed, work, family, range(prefix.shape.layers)))
    rows = torch.cat(parts)
    torch.testing.assert_close(rows, rows[plan.origin], atol=1e-5, rtol=1e-5)
    assert (plan.origin != np.arange(len(plan.origin))).sum() > 5
    reused = int(np.flatnonzero(~plan.is_computed)[-1])
    key = prefix.layer(1)[Tier.FP16].key[0][reused]
    turned = rotate(
        rows[reused : reused + 1, 1, 0],
        family.rotation(torch.from_numpy(plan.positions[reused : reused + 1])),
    )
    torch.testing.assert_close(key[None], turned, atol=1e-5, rtol=1e-5)


def test_of_one_layer_reuse_of_identical_pictures_scores_as_transformers_over_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of the first layer know nothing of what came before; later ones do."""
    for layers in (1, 2):
        folder = tiny.llava_next(tmp_path / str(layers), layers=layers)
        family, own = loaded(folder), loaded(folder)
        geometry = geometry_of(family)
        pictures = random_pictures(1, geometry).repeat(SAMPLES, 0)
        seen = _remember(family, "features", monkeypatch)
        static = np.ones((SAMPLES, geometry.cells), bool)
        got = [
            scores(
                planned(make_manifest(pictures, geometry, static=static, source=source), family, 1),
                family,
                tmp_path,
            )
            for source in ([0, 1, 2, 3, 4], [0, 0, 0, 0, 0])
        ]
        assert [len(shown[0]) for shown in seen] == [1, 1]  # pictures that the tower saw
        torch.testing.assert_close(got[0], got[1], atol=1e-5, rtol=1e-5)
        footage = Footage.steady(geometry, SAMPLES)
        expected = Uncompressed(own, pictures, footage).next_token_scores(QUESTION)
        apart = float((got[0] - expected).abs().max())
        assert apart < 1e-4 if layers == 1 else apart > 1e-3


def _remember(what: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a method is given from now on: its arguments, by position and then by name."""
    calls: list[tuple[Any, ...]] = []
    run = getattr(what, method)

    def remembered(*given: Any, **named: Any) -> Any:
        calls.append((*given, named))
        return run(*given, **named)

    monkeypatch.setattr(what, method, remembered)
    return calls


def test_a_sample_without_text_of_its_own_costs_no_forward_pass_if_all_is_reused(
    families: dict[str, Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = families[MERGED]
    static = np.ones((SAMPLES, family.geometry.for_video(56, 56, 1).cells), bool)
    work = planned(filmed(family, static=static, tier=None), family, 1)
    passes = _remember(family.language_model, "forward", monkeypatch)
    rows = []
    with closing(compute(work, family, allocate(work, family))) as blocks:
        for computed in blocks:
            keep(computed.cache, work.plan.tier[computed.block])
            rows.append(computed.cache.suffix(1)[0].shape[2])
    assert len(rows) > 1
    assert [given["inputs_embeds"].shape[1] for (given,) in passes] == [work.plan.computed]
    assert sum(rows) == len(work.plan.origin)


def test_a_reused_cell_takes_next_to_nothing_of_a_file(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family = families[MERGED]
    geometry = family.geometry.for_video(56, 56, 1)

    def block_bytes(samples: int, *, is_static: bool) -> int:
        static = np.full((samples, geometry.cells), is_static)
        manifest = make_manifest(random_pictures(samples, geometry), geometry, static=static)
        settings = CacheSettings(reuse="cells", quality="high")
        work = plan_cache(manifest, family, settings, dtype="float32")
        prefill(work, family, tmp_path / "x.safetensors")
        with CacheFile.open(tmp_path / "x.safetensors") as cache:
            assert cache.header.codec.name == "klt"
            assert cache.header.layout.computed == work.plan.computed
            return len(cache.block(0, 0))

    computed, reused = (
        block_bytes(16, is_static=is_static) - block_bytes(4, is_static=is_static)
        for is_static in (False, True)
    )
    assert reused < 0.05 * computed


def test_where_keys_cannot_be_moved_samples_are_reused_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(ModelSettings(name=str(tiny.llava_next(tmp_path)), device="cpu"))
    text = model.family.config.get_text_config()
    monkeypatch.setattr(text, "rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0})
    maker = CacheMaker(model, CacheSettings(reuse="cells"))
    video = maker.plan(filmed(model.family), identify_weights=False)
    assert maker.settings.reuse == "samples"
    assert "reuses whole samples, no cells: mistral: rotations of type 'dynamic'" in (
        video.note or ""
    )
    assert video.headers[0].policy.parameters["reuse"] == "samples"
