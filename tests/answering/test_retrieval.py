"""Answers from a few samples of a video: rows moved, nothing else read, the right ones found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.answering import PrefixAnswerer, Retriever
from batch.answering.finding import sample_scores
from batch.answering.gathering import Arranged, arrange, load
from batch.answering.samples import Piece, StoredSample, StoredVideo
from batch.demo.drawing import draw
from batch.demo.world import Scene, World, random_world
from batch.errors import BatchError
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from cachefmt import CacheFile, CacheFileError, SampleIndex, Tier
from tests.answering.caches import (
    PrefixesAlive,
    flip,
    loaded,
    overwrite,
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
) -> CacheFile:
    """The cache of some of eight pictures, its FP16 tier in float32."""
    geometry = family.geometry.for_video(64, 64, 16)
    random = np.random.default_rng(1)
    tiers = random.integers(0, 4, (len(samples), geometry.cells), dtype=np.uint8)
    pictures = random_pictures(8, geometry)[list(samples)]
    manifest = make_manifest(pictures, geometry, source=source, tier=tiers if every_tier else None)
    prefill(plan_cache(manifest, family, dtype="float32", raw_dtype="F32"), family, path)
    return CacheFile.open(path)


def take(
    family: Family, cache: CacheFile, places: Sequence[int]
) -> tuple[Arranged, Prefix, PrefixAnswerer]:
    """Some stored samples of a cache, moved together."""
    video = StoredVideo([cache])
    rows = arrange(video, [StoredSample(0, place) for place in places], family)
    prefix = load(video, rows, family)
    answerer = PrefixAnswerer(prefix, family, next_position=rows.next_position, name="x")
    return rows, prefix, answerer


def test_all_samples_of_a_cache_are_the_cache_itself(family: Family, tmp_path: Path) -> None:
    source = [0, 0, 2, 3, 3, 5]
    cache = write(family, tmp_path / "x", range(6), source=source, every_tier=True)
    rows, _, answerer = take(family, cache, range(4))
    assert (rows.new == rows.old).all()
    assert rows.next_position == cache.header.layout.next_position
    expected = PrefixAnswerer.of_cache(cache, family).next_token_scores(QUESTION)
    torch.testing.assert_close(answerer.next_token_scores(QUESTION), expected, atol=1e-3, rtol=1e-3)
    _, _, fewer = take(family, cache, [1])
    assert (fewer.next_token_scores(QUESTION) - expected).abs().max() > 1e-2


def test_moved_keys_are_those_of_a_video_of_these_samples(family: Family, tmp_path: Path) -> None:
    cache = write(family, tmp_path / "x", range(7))
    rows, prefix, _ = take(family, cache, [0, 3, 5])
    # Those between are pointers, whose gaps are closed where the model's layout closes gaps.
    alone = write(family, tmp_path / "y", range(6), source=[0, 0, 0, 3, 3, 5])
    sample, cell = alone.array("token.sample"), alone.array("token.cell")
    # Text of times and numbers differs; the first layer's keys of a cell know nothing else.
    found = prefix.layer(0)[Tier.FP16].key[0][torch.from_numpy(rows.cell >= 0)]
    expected = torch.from_numpy(alone.array("layers.0.key.fp16")[cell >= 0])
    assert np.array([0, 3, 5])[rows.number[rows.cell >= 0]].tolist() == sample[cell >= 0].tolist()
    assert rows.next_position == alone.header.layout.next_position
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_long_piece_is_read_piece_by_piece_too() -> None:
    rows = 3000
    none = np.zeros((rows, 1), np.int64)
    stays = np.random.default_rng(1).random(rows) < 0.9
    arranged = Arranged(
        pieces=(Piece(0, Tier.FP16, 7, 9), Piece(0, Tier.INT8, 2, 2 + rows - 2)),
        stays=stays,
        old=none[stays],
        new=none[stays],
        next_position=(0,),
        number=none[stays, 0],
        cell=none[stays, 0],
        multiplicity=none[stays, 0] + 1,
    )
    chunks = list(arranged.chunks())
    read = [sum(piece.stop - piece.start for piece in pieces) for pieces, _, _ in chunks]
    assert sum(read) == rows
    assert max(read) < 1024
    assert np.concatenate([kept.numpy() for _, kept, _ in chunks]).tolist() == stays.tolist()
    assert [at.start for _, _, at in chunks[1:]] == [at.stop for _, _, at in chunks[:-1]]
    assert chunks[-1][2].stop == stays.sum()
    in_order = [piece for pieces, _, _ in chunks for piece in pieces]
    assert (in_order[0], in_order[1].start, in_order[-1].stop) == (arranged.pieces[0], 2, rows)


def test_a_sample_without_cells_changes_no_score(llava: Family, tmp_path: Path) -> None:
    geometry = llava.geometry.for_video(64, 64, 16)
    tiers = np.zeros((4, geometry.cells), np.uint8)
    tiers[2:] = Tier.PRUNE
    manifest = make_manifest(random_pictures(4, geometry), geometry, tier=tiers)
    prefill(plan_cache(manifest, llava, dtype="float32"), llava, tmp_path / "x")
    with CacheFile.open(tmp_path / "x") as cache:
        index, shape = SampleIndex.read(cache), cache.header.shape
    fewer = replace(
        index, bounds=index.bounds[:2], scale=index.scale[:2], minimum=index.minimum[:2]
    )
    made = torch.Generator().manual_seed(1)
    asked, neutral = (
        [torch.randn(3, 4, shape.head_dim, generator=made) for _ in shape.index_layers]
        for _ in range(2)
    )
    scores = sample_scores(asked, neutral, [index])
    assert scores[2:].tolist() == [-np.inf, -np.inf]
    torch.testing.assert_close(scores[:2], sample_scores(asked, neutral, [fewer]))
    assert scores[0] != scores[1]


class CountedFile(CacheFile):
    """Knows how many bytes of its tensors were read."""

    read_bytes = 0

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        rows = super().read(name, start, stop)
        self.read_bytes += rows.nbytes
        return rows


def test_nothing_is_read_but_the_indices_and_the_rows_of_the_chosen_samples(
    llava: Family, folder: Path
) -> None:
    per_token = 2 * 2 * 2 * 8 * 2 + 4 * 4  # keys and values of two layers and heads; four columns
    segments = [CountedFile.open(file) for file in sorted(folder.iterdir())]
    retriever = Retriever(segments, llava, budget_tokens=40, shares=(0.2, 0.9), name="x")
    of_index = sum(segment.read_bytes for segment in segments)
    (answer, again) = retriever.ask_all([QUESTION, QUESTION], max_new_tokens=2)
    assert sum(segment.read_bytes for segment in segments) - of_index == answer.rows_bytes
    assert 0 < of_index <= retriever.index_bytes
    assert 0 < answer.loaded_tokens <= 40
    assert answer.rows_bytes == answer.loaded_tokens * per_token
    assert again == replace(answer, rows_bytes=0)


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
    with PrefixesAlive(llava, "language_model") as alive:  # which turns keys while they are loaded
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


@pytest.mark.parametrize("name", ["index.row", "index.bounds", "sample.time_s"])
def test_a_damaged_index_is_refused_by_name(
    llava: Family, segments: list[CacheFile], name: str
) -> None:
    damaged = [segments[0], flip(segments[1], name, 1)]
    with pytest.raises(CacheFileError, match=rf"damaged\.safetensors: {name} does not match"):
        Retriever(damaged, llava, name="x")


@pytest.mark.parametrize("name", ["token.sample", "token.cell", "token.multiplicity"])
def test_rows_that_contradict_the_index_are_refused(
    llava: Family, segments: list[CacheFile], name: str
) -> None:
    byte = 3 + 4 * int(segments[0].array("index.row")[0, 0])  # of the first sample's first row
    damaged = flip(segments[0], name, byte)
    with pytest.raises(CacheFileError, match="does not belong to its sample; batch verify"):
        take(llava, damaged, [0])


def test_rows_that_are_no_numbers_are_refused_by_the_name_of_their_file(
    llava: Family, segments: list[CacheFile]
) -> None:
    content = np.full_like(segments[1].array("layers.1.key.fp16"), np.nan)
    video = StoredVideo([segments[0], overwrite(segments[1], "layers.1.key.fp16", content)])
    rows = arrange(video, [StoredSample(0, 1), StoredSample(1, 0)], llava)
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: layer 1: .*batch verify"):
        load(video, rows, llava)


def test_keys_that_cannot_be_moved_have_no_index(tmp_path: Path) -> None:
    family = unmovable(tmp_path / "model")
    with write(family, tmp_path / "x", range(2)) as cache:
        cache.verify()
        assert cache.header.shape.index_layers == ()
        with pytest.raises(BatchError, match=r"written without an index.*--scope each-segment"):
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
