"""Answers from a few samples of a video: rows moved, nothing else read, the right ones found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from batch.answering import PrefixAnswerer, Retriever
from batch.answering.finding import sample_scores
from batch.answering.gathering import Arranged, arrange, load
from batch.answering.samples import StoredSample, StoredVideo
from batch.demo.drawing import draw
from batch.demo.world import Scene, World, random_world
from batch.errors import BatchError
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.segments import Span
from batch.models import Family
from batch.settings import CacheSettings, Quality
from cachefmt import CacheFile, CacheFileError, Segment, Tier
from cachefmt.layout import BOUNDS_TIER
from tests.answering.caches import (
    PrefixesAlive,
    flip,
    loaded,
    rewrite,
    scaled,
    unmovable,
    write_segments,
)
from tests.kv.test_rotation import SCALINGS
from tests.manifests import make_manifest, random_pictures
from tests.tiny.families import TINY

QUESTION = "what is the red star doing ?"


MODELS: dict[str, Callable[[Path], Path]] = TINY | {
    name: partial(scaled, scaling=SCALINGS[name]) for name in ("linear", "yarn", "llama3")
}


@pytest.fixture(scope="module", params=MODELS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return loaded(MODELS[request.param](tmp_path_factory.mktemp(request.param)))


def write(
    family: Family,
    path: Path,
    samples: Sequence[int],
    *,
    source: list[int] | None = None,
    every_tier: bool = False,
    quality: Quality = "lossless",
) -> CacheFile:
    """The cache of some of eight pictures, its FP16 tier in float32."""
    settings = CacheSettings(quality=quality)
    geometry = family.geometry.for_video(64, 64, 16)
    random = np.random.default_rng(1)
    tiers = random.integers(0, 4, (len(samples), geometry.cells), dtype=np.uint8)
    pictures = random_pictures(8, geometry)[list(samples)]
    manifest = make_manifest(pictures, geometry, source=source, tier=tiers if every_tier else None)
    work = plan_cache(manifest, family, settings, dtype="float32", raw_dtype="F32")
    prefill(work, family, path)
    return CacheFile.open(path)


def take(
    family: Family, cache: CacheFile, places: Sequence[int]
) -> tuple[Arranged, Prefix, PrefixAnswerer]:
    """Some stored samples of a cache, moved together."""
    video = StoredVideo([cache], family.rotation)
    rows = arrange(video, [StoredSample(0, place) for place in places], family)
    prefix = load(video, rows, family)
    answerer = PrefixAnswerer(prefix, family, next_position=rows.next_position, name="x")
    return rows, prefix, answerer


def test_all_samples_of_a_cache_are_the_cache_itself(family: Family, tmp_path: Path) -> None:
    source = [0, 0, 2, 3, 3, 5]
    cache = write(family, tmp_path / "x", range(6), source=source, every_tier=True)
    rows, _, answerer = take(family, cache, range(4))
    assert (rows.positions == cache.tables.position).all()
    assert rows.next_position == cache.header.layout.next_position
    expected = PrefixAnswerer.of_cache(cache, family).next_token_scores(QUESTION)
    torch.testing.assert_close(answerer.next_token_scores(QUESTION), expected, atol=1e-3, rtol=1e-3)
    _, _, fewer = take(family, cache, [1])
    assert (fewer.next_token_scores(QUESTION) - expected).abs().max() > 1e-2


def test_all_samples_of_a_small_file_are_what_it_decodes_to(family: Family, tmp_path: Path) -> None:
    source = [0, 0, 2, 3, 3, 5]
    cache = write(family, tmp_path / "x", range(6), source=source, quality="small")
    assert cache.header.codec.name == "klt"
    _, _, answerer = take(family, cache, range(4))
    expected = PrefixAnswerer.of_cache(cache, family).next_token_scores(QUESTION)
    torch.testing.assert_close(answerer.next_token_scores(QUESTION), expected, atol=1e-3, rtol=1e-3)
    _, _, fewer = take(family, cache, [1])
    assert (fewer.next_token_scores(QUESTION) - expected).abs().max() > 1e-2


def test_moved_keys_are_those_of_a_video_of_these_samples(family: Family, tmp_path: Path) -> None:
    cache = write(family, tmp_path / "x", range(7))
    rows, prefix, _ = take(family, cache, [0, 3, 5])
    # Those between are pointers, whose gaps are closed where the model's layout closes gaps.
    alone = write(family, tmp_path / "y", range(6), source=[0, 0, 0, 3, 3, 5])
    # Text of times and numbers differs; the first layer's keys of a cell know nothing else.
    cells = np.concatenate([cache.tables.cell[piece.start : piece.stop] for piece in rows.pieces])
    is_cell, expected_cell = cells[rows.stays] >= 0, alone.tables.cell >= 0
    found = prefix.layer(0)[Tier.FP16].key[0][torch.from_numpy(is_cell)]
    expected = Prefix.load(alone, "cpu").layer(0)[Tier.FP16].key[0][torch.from_numpy(expected_cell)]
    numbers = np.array([0, 3, 5])[rows.number[is_cell]]
    assert numbers.tolist() == alone.tables.sample[expected_cell].tolist()
    assert rows.next_position == alone.header.layout.next_position
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_sample_without_cells_changes_no_score(llava: Family, tmp_path: Path) -> None:
    geometry = llava.geometry.for_video(64, 64, 16)
    tiers = np.zeros((4, geometry.cells), np.uint8)
    tiers[2:] = Tier.PRUNE
    manifest = make_manifest(random_pictures(4, geometry), geometry, tier=tiers)
    settings = CacheSettings(quality="lossless")
    prefill(plan_cache(manifest, llava, settings, dtype="float32"), llava, tmp_path / "x")
    with CacheFile.open(tmp_path / "x") as cache:
        video, shape = StoredVideo([cache], llava.rotation), cache.header.shape
    (index,) = video.bounds
    fewer = replace(index, codes=index.codes[:2], scale=index.scale[:2], minimum=index.minimum[:2])
    made = torch.Generator().manual_seed(1)
    asked, neutral = (
        [torch.randn(3, 4, shape.head_dim, generator=made) for _ in video.index_layers]
        for _ in range(2)
    )
    scores = sample_scores(asked, neutral, [index])
    assert scores[2:].tolist() == [-np.inf, -np.inf]
    torch.testing.assert_close(scores[:2], sample_scores(asked, neutral, [fewer]))
    assert scores[0] != scores[1]


class CountedFile(CacheFile):
    """Knows which of its blocks were read."""

    def block(self, number: int, group: int) -> bytes:
        self.__dict__.setdefault("read", []).append(number)
        return super().block(number, group)


@pytest.mark.parametrize("quality", ["lossless", "small"])
def test_of_a_segment_nothing_is_read_but_the_index_and_the_blocks_of_the_chosen_samples(
    llava: Family, tmp_path: Path, quality: Quality
) -> None:
    geometry = llava.geometry.for_video(64, 64, 16)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    span = Span(segment=Segment(number=0, count=2, first_sample=0), samples=8)
    settings = CacheSettings(quality=quality)
    work = plan_cache(manifest, llava, settings, dtype="float32", span=span)
    codec = replace(work.header.codec, block_samples=1)
    prefill(replace(work, header=replace(work.header, codec=codec)), llava, tmp_path / "x")
    with CountedFile.open(tmp_path / "x") as cache:
        retriever = Retriever([cache], llava, budget_tokens=40, shares=(0.2, 0.9), name="x")
        of_text = cache.__dict__.pop("read")  # it is in the first block
        assert of_text == [0]
        once = [name for name in cache.names if not name.startswith(("cost.", "block."))]
        of_index = cache.header_size_bytes + sum(map(cache.tensor_bytes, once))
        assert retriever.index_bytes == of_index + cache.tensor_bytes("block.00000.00")
        answer, again = retriever.ask_all([QUESTION, QUESTION], max_new_tokens=2)
        read = cache.__dict__.pop("read")
        assert sorted(read) == sorted(set(answer.samples) - {0})
        assert 0 < len(read) < 7
        sizes = [cache.tensor_bytes(f"block.{number:05}.00") for number in read]
    assert answer.rows_bytes == sum(sizes)
    assert 0 < answer.loaded_tokens <= 40
    assert again == replace(answer, rows_bytes=0)


@pytest.mark.parametrize("quality", ["lossless", "high"])
def test_the_index_that_is_made_of_a_whole_video_is_that_of_a_segment(
    llava: Family, tmp_path: Path, quality: Quality
) -> None:
    geometry = llava.geometry.for_video(64, 64, 16)
    manifest = make_manifest(random_pictures(6, geometry), geometry)
    settings = CacheSettings(quality=quality)
    bounds = {}
    for count in (1, 2):
        span = Span(segment=Segment(number=0, count=count, first_sample=0), samples=6)
        work = plan_cache(manifest, llava, settings, dtype="float32", raw_dtype="F32", span=span)
        prefill(work, llava, tmp_path / "x")
        with CacheFile.open(tmp_path / "x") as cache:
            assert (cache.index is None) == (count == 1)
            (found,) = StoredVideo([cache], llava.rotation).bounds
        bounds[count] = BOUNDS_TIER.codec.decode(
            *(torch.from_numpy(part.copy()) for part in (found.codes, found.scale, found.minimum))
        )
    step = (bounds[2].amax(-1) - bounds[2].amin(-1)) / 15  # of INT4
    tolerance = 1.1 * step if quality == "lossless" else 3 * step
    assert ((bounds[1] - bounds[2]).abs() <= tolerance[..., None]).all()


def test_an_answer_names_samples_and_times_of_the_whole_video(
    llava: Family, segments: list[CacheFile]
) -> None:
    retriever = Retriever(segments, llava, budget_tokens=16, shares=(1.0,), name="x")
    questions = [QUESTION, "a b c", "the star ?", "d", "? ?", "is is is", "red", "/ ."]
    answers = list(retriever.ask_all(questions, max_new_tokens=2))
    assert len({answer.samples for answer in answers}) > 1
    stored = {0, 1, 2, 4, 5, 6, 7}
    for answer in answers:
        assert set(answer.samples) <= stored
        assert list(answer.samples) == sorted(answer.samples)
        for time in answer.evidence:
            inside = [sample for sample in stored if time.start_s <= sample < time.stop_s]
            assert set(inside) <= set(answer.samples)
        best = np.argsort(-retriever.scores(llava.question_ids(answer.question)), kind="stable")[
            : len(answer.samples)
        ]
        assert {sorted(stored)[place] for place in best} == set(answer.samples)


def test_what_a_question_loaded_is_let_go_before_the_next_loads(
    llava: Family, segments: list[CacheFile]
) -> None:
    questions = [QUESTION, "a b c", "the star ?", "d", "? ?"]
    with PrefixesAlive(llava, "rotation") as alive:  # which turns keys while they are loaded
        retriever = Retriever(segments, alive.family, budget_tokens=16, shares=(1.0,), name="x")
        answers = list(retriever.ask_all(questions, max_new_tokens=2))
    assert len({answer.samples for answer in answers}) > 1
    assert max(alive.counts) == 2  # the text before the video, and what one question loads


def test_a_segment_alone_names_the_samples_of_the_video(
    llava: Family, segments: list[CacheFile]
) -> None:
    first = segments[1].header.segment.first_sample
    retriever = Retriever(segments[1:], llava, budget_tokens=20, name="x")
    (answer,) = retriever.ask_all([QUESTION], max_new_tokens=2)
    assert first > 0
    assert answer.samples
    assert set(answer.samples) <= set(range(first, 8))


def test_a_budget_that_holds_no_sample_is_refused(llava: Family, segments: list[CacheFile]) -> None:
    retriever = Retriever(segments, llava, budget_tokens=3, name="x.segments")
    with pytest.raises(BatchError, match=r"x\.segments: not even the best.*--budget-tokens"):
        list(retriever.ask_all([QUESTION]))


def test_a_question_that_leaves_no_room_is_refused_by_its_length(
    llava: Family, segments: list[CacheFile]
) -> None:
    retriever = Retriever(segments, llava, name="x.segments")
    with pytest.raises(
        BatchError, match=r"x\.segments: .* question of \d+ tokens .*ask more briefly"
    ):
        list(retriever.ask_all([QUESTION], max_new_tokens=llava.decoder.context))


@pytest.mark.parametrize("name", ["index", "tables"])
def test_a_damaged_index_is_refused_by_name(
    llava: Family, segments: list[CacheFile], name: str
) -> None:
    damaged = [segments[0], flip(segments[1], name, 1)]
    with pytest.raises(CacheFileError, match=rf"damaged\.safetensors: {name} does not match"):
        Retriever(damaged, llava, name="x")


def test_rows_that_are_no_numbers_are_refused_by_the_name_of_their_block(
    llava: Family, segments: list[CacheFile], tmp_path: Path
) -> None:
    nan = np.array(np.nan, np.float16).tobytes()
    hostile = rewrite(
        segments[1], tmp_path / "hostile", block=lambda data: nan * (len(data) // len(nan))
    )
    hostile.verify()
    video = StoredVideo([segments[0], hostile], llava.rotation)
    rows = arrange(video, [StoredSample(0, 1), StoredSample(1, 0)], llava)
    with pytest.raises(CacheFileError, match=r"hostile: block\.00000\.00 \(layers 0 to 1\)"):
        load(video, rows, llava)


def test_keys_that_cannot_be_moved_have_no_index(tmp_path: Path) -> None:
    family = unmovable(tmp_path / "model")
    with write(family, tmp_path / "x", range(2)) as cache:
        cache.verify()
        assert cache.header.shape.index_layers == ()
        with pytest.raises(BatchError, match=r"cannot be searched.*--scope each-segment"):
            Retriever([cache], family, name="x")


def haystack(samples: int, needle: int) -> tuple[World, Scene]:
    """Scenes one after the other, of which one shows a bead."""
    random = np.random.default_rng(4)
    scenes: list[Scene] = []
    while (at := sum(scene.samples for scene in scenes)) < samples:
        for scene in random_world(random, 12).scenes:
            things = tuple(replace(thing, end=thing.start) for thing in scene.things)
            plain: dict[str, Any] = {"bead_colour": None, "spark": None, "things": things}
            scenes.append(replace(scene, first_sample=at + scene.first_sample, **plain))
    place = scenes[needle].digit_place or scenes[needle].things[0].start
    scenes[needle] = replace(
        scenes[needle], bead_colour="cyan", bead_place=place, digit=None, digit_place=None
    )
    return World(scenes=tuple(scenes), noise=0.0, noise_seed=0), scenes[needle]


def test_the_moment_that_a_question_is_about_is_found_and_answers(tmp_path: Path) -> None:
    family = loaded("demo")
    world, needle = haystack(300, needle=7)
    geometry = family.geometry.for_video(112, 112, 1)
    pictures = np.stack([draw(world, float(second), 112) for second in range(world.samples)])
    first = [world.scene_at(float(second)).first_sample for second in range(world.samples)]
    tiers = np.full((world.samples, geometry.cells), Tier.INT4, np.uint8)
    manifest = make_manifest(pictures, geometry, source=first, tier=tiers)
    segments = write_segments(family, tmp_path, manifest, context=1300)
    retriever = Retriever(segments, family, budget_tokens=400, name="x")
    (answer,) = retriever.ask_all(["what colour is the bead ?"], max_new_tokens=4)
    assert answer.loaded_tokens <= 400 < 64 * len(world.scenes)
    assert needle.first_sample in answer.samples
    assert answer.text == "cyan"


def test_segments_may_be_cut_into_other_groups_of_layers() -> None:
    video = StoredVideo.__new__(StoredVideo)
    cuts = [[range(5)], [range(2), range(2, 4), range(4, 5)]]
    video._rows = [SimpleNamespace(groups=cut) for cut in cuts]  # type: ignore[misc]
    assert video.groups == [range(2), range(2, 4), range(4, 5)]
    assert video.group_of(0, range(2, 4)) == (0, slice(2, 4))
    assert video.group_of(1, range(2, 4)) == (1, slice(0, 2))
    assert video.group_of(1, range(4, 5)) == (2, slice(0, 1))
