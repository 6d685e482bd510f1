"""Answers from a few samples of a video: rows moved, nothing else read, the right ones found."""

import json
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch.answering import Answerer, PrefixAnswerer, Retriever
from batch.answering.gathering import Arranged, arrange, lay_out, load
from batch.answering.moving import Placed
from batch.answering.ranking import sample_scores
from batch.answering.rows import Chosen, Piece, RowReader
from batch.demo.drawing import draw
from batch.demo.world import Scene, World, imagine
from batch.errors import BatchError
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.segments import cut
from batch.models import Family, open_family
from cachefmt import CacheFile, CacheFileError, SampleIndex, Tier
from cachefmt.memory import read_into
from tests import tiny
from tests.answering.damage import flip, overwrite
from tests.kv.test_rotation import SCALINGS
from tests.manifests import make_manifest, random_pictures
from tests.models.test_families import TINY

QUESTION = "what is the red star doing ?"


def scaled(folder: Path, name: str) -> Path:
    """A tiny LLaVA-1.6 whose decoder's rotations are of another kind."""
    file = tiny.llava_next(folder) / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["rope_parameters"] = SCALINGS[name] | {"rope_theta": 10_000.0}
    file.write_text(json.dumps(config))
    return folder


MODELS: dict[str, Callable[[Path], Path]] = TINY | {
    name: partial(scaled, name=name) for name in ("linear", "yarn", "llama3")
}


def loaded(folder: Path) -> Family:
    family = open_family(str(folder))
    family.load(device="cpu", dtype=torch.float32)
    return family


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
    index, reader = SampleIndex.read(cache), RowReader([cache])
    chosen = [Chosen(0, place) for place in places]
    layout = lay_out([cache], [index], chosen, family)
    rows = arrange(reader, [index], chosen, reader.text_behind([index]), layout)
    prefix = load(reader, rows, family)
    answerer = PrefixAnswerer(
        prefix, family, next_position=rows.new.next_position, name=str(cache.path)
    )
    return rows, prefix, answerer


def test_all_samples_of_a_cache_are_the_cache_itself(family: Family, tmp_path: Path) -> None:
    source = [0, 0, 2, 3, 3, 5]
    cache = write(family, tmp_path / "x", range(6), source=source, every_tier=True)
    rows, _, answerer = take(family, cache, range(4))
    assert (rows.new.positions == rows.old).all()
    assert rows.new.next_position == cache.header.layout.next_position
    expected = Answerer(cache, family).next_token_scores(QUESTION)
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
    found = prefix.layer(0)[Tier.FP16].key[torch.from_numpy(rows.cell >= 0)]
    expected = torch.from_numpy(alone.array("layers.0.key.fp16")[cell >= 0])
    assert np.array([0, 3, 5])[rows.number[rows.cell >= 0]].tolist() == sample[cell >= 0].tolist()
    assert rows.new.next_position == alone.header.layout.next_position
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_long_stretch_is_read_piece_by_piece_too() -> None:
    rows = 3000
    none = np.zeros((rows, 1), np.int64)
    stays = np.random.default_rng(1).random(rows) < 0.9
    arranged = Arranged(
        pieces=(Piece(0, Tier.FP16, 7, 9), Piece(0, Tier.INT8, 2, 2 + rows - 2)),
        stays=stays,
        old=none[stays],
        new=Placed(positions=none[stays], next_position=(0,)),
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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a tensor; whatever else the process reads does not count."""
    sizes: list[int] = []

    def counted(file: int, buffer: memoryview, offset: int) -> None:
        sizes.append(buffer.nbytes)
        read_into(file, buffer, offset)

    monkeypatch.setattr("cachefmt.reader.read_into", counted)
    return sizes


def test_nothing_is_read_but_the_indices_and_the_rows_of_the_chosen_samples(
    llava: Family, segments: list[CacheFile], reads: list[int]
) -> None:
    per_token = 2 * 2 * 2 * 8 * 2 + 4 * 4  # keys and values of two layers and heads; four columns
    retriever = Retriever(segments, llava, budget_tokens=40, shares=(0.2, 0.9), name="x")
    of_index = sum(reads)
    reads.clear()
    (reply, again) = retriever.ask([QUESTION, QUESTION], max_new_tokens=2)
    assert sum(reads) == reply.rows_bytes
    assert 0 < of_index <= retriever.index_bytes
    assert 0 < reply.loaded_tokens <= 40
    assert reply.rows_bytes == reply.loaded_tokens * per_token
    assert again == replace(reply, rows_bytes=0)


def test_an_answer_names_samples_and_times_of_the_whole_video(
    llava: Family, segments: list[CacheFile]
) -> None:
    retriever = Retriever(segments, llava, budget_tokens=16, shares=(1.0,), name="x")
    questions = [QUESTION, "a b c", "the star ?", "d", "? ?", "is is is", "red", "/ ."]
    replies = list(retriever.ask(questions, max_new_tokens=2))
    assert len({reply.samples for reply in replies}) > 1
    stored = {0, 1, 2, 4, 5, 6, 7}
    for reply in replies:
        assert set(reply.samples) <= stored
        assert list(reply.samples) == sorted(reply.samples)
        for time in reply.evidence:
            inside = [sample for sample in stored if time.start_s <= sample < time.stop_s]
            assert set(inside) <= set(reply.samples)
        best = np.argsort(-retriever.scores(reply.question), kind="stable")[: len(reply.samples)]
        assert {sorted(stored)[place] for place in best} == set(reply.samples)


def test_what_a_question_loaded_is_let_go_before_the_next_loads(
    llava: Family, segments: list[CacheFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever(segments, llava, budget_tokens=16, shares=(1.0,), name="x")
    loads: list[weakref.ref[Prefix]] = []

    def counted(*what: Any) -> Prefix:
        assert [prefix() for prefix in loads if prefix() is not None] == []
        prefix = load(*what)
        loads.append(weakref.ref(prefix))
        return prefix

    monkeypatch.setattr("batch.answering.retrieval.load", counted)
    list(retriever.ask([QUESTION, "a b c", "the star ?", "d", "? ?"], max_new_tokens=2))
    assert len(loads) > 1


def test_a_segment_alone_names_the_samples_of_the_video(
    llava: Family, segments: list[CacheFile]
) -> None:
    first = segments[1].header.segment.first_sample
    retriever = Retriever(segments[1:], llava, budget_tokens=20, name="x")
    (reply,) = retriever.ask([QUESTION], max_new_tokens=2)
    assert first > 0
    assert reply.samples
    assert set(reply.samples) <= set(range(first, 8))


def test_a_budget_that_holds_no_sample_is_refused(llava: Family, segments: list[CacheFile]) -> None:
    retriever = Retriever(segments, llava, budget_tokens=3, name="x.segments")
    with pytest.raises(BatchError, match=r"x\.segments: not even the best.*--budget-tokens"):
        list(retriever.ask([QUESTION]))


def test_a_question_that_leaves_no_room_is_refused_by_its_length(
    llava: Family, segments: list[CacheFile]
) -> None:
    retriever = Retriever(segments, llava, name="x.segments")
    with pytest.raises(
        BatchError, match=r"x\.segments: .* question of \d+ tokens .*ask more briefly"
    ):
        list(retriever.ask([QUESTION], max_new_tokens=llava.decoder.context))


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
    video = [segments[0], overwrite(segments[1], "layers.1.key.fp16", content)]
    indices, reader = [SampleIndex.read(segment) for segment in video], RowReader(video)
    chosen = [Chosen(0, 1), Chosen(1, 0)]
    layout = lay_out(video, indices, chosen, llava)
    rows = arrange(reader, indices, chosen, reader.text_behind(indices), layout)
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: layer 1: .*batch verify"):
        load(reader, rows, llava)


def test_keys_that_cannot_be_moved_have_no_index(tmp_path: Path) -> None:
    file = tiny.llava_next(tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    config["text_config"]["rope_parameters"] = scaling
    file.write_text(json.dumps(config))
    family = loaded(file.parent)
    with write(family, tmp_path / "x", range(2)) as cache:
        cache.verify()
        assert cache.header.shape.index_layers == ()
        with pytest.raises(BatchError, match=r"written without an index.*--scope all"):
            Retriever([cache], family, name="x")


def haystack(samples: int, needle: int) -> tuple[World, Scene]:
    """Scenes one after the other, of which one shows a bead."""
    random = np.random.default_rng(4)
    scenes: list[Scene] = []
    while (at := sum(scene.samples for scene in scenes)) < samples:
        for scene in imagine(random, 12).scenes:
            things = tuple(replace(thing, end=thing.start) for thing in scene.things)
            plain: dict[str, Any] = {"bead_colour": None, "spark": None, "things": things}
            scenes.append(replace(scene, first_sample=at + scene.first_sample, **plain))
    place = scenes[needle].digit_place or scenes[needle].things[0].start
    scenes[needle] = replace(
        scenes[needle], bead_colour="cyan", bead_place=place, digit=None, digit_place=None
    )
    return World(scenes=tuple(scenes), noise=0.0, noise_seed=0), scenes[needle]


def test_the_moment_that_a_question_is_about_is_found_and_answers(tmp_path: Path) -> None:
    family = loaded_demo()
    world, needle = haystack(300, needle=7)
    geometry = family.geometry.for_video(112, 112, 1)
    pictures = np.stack([draw(world, float(second), 112) for second in range(world.samples)])
    first = [world.scene_at(float(second)).first_sample for second in range(world.samples)]
    tiers = np.full((world.samples, geometry.cells), Tier.INT4, np.uint8)
    manifest = make_manifest(pictures, geometry, source=first, tier=tiers)
    with ExitStack() as opened:
        segments = []
        for part in cut(manifest, family.layout, context=1300, positions="compact"):
            path = tmp_path / f"{part.segment.number:05}.safetensors"
            prefill(plan_cache(manifest, family, dtype="float32", span=part), family, path)
            segments.append(opened.enter_context(CacheFile.open(path)))
        retriever = Retriever(segments, family, budget_tokens=400, name="x")
        (reply,) = retriever.ask(["what colour is the bead ?"], max_new_tokens=4)
    assert len(segments) > 1
    assert reply.loaded_tokens <= 400 < 64 * len(world.scenes)
    assert needle.first_sample in reply.samples
    assert reply.answer == "cyan"


def loaded_demo() -> Family:
    family = open_family("demo")
    family.load(device="cpu", dtype=torch.float32)
    return family
