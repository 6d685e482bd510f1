"""One video's cache: what it is refused for, what answers of it, and its shortest videos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batch.answering import (
    AnswerSettings,
    ChosenAnswer,
    PrefixAnswerer,
    RetrievedAnswer,
    VideoAnswerer,
    open_cache,
)
from batch.errors import BatchError, ModelError
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from batch.settings import Scope
from cachefmt import CacheFile, CacheFileError, Tables, Tier
from cachefmt.layout import kv_bytes
from tests import tiny
from tests.answering.caches import PrefixesAlive, flip, rewrite, unmovable, write_segments
from tests.manifests import geometry_of, make_manifest, random_pictures

QUESTION = "what is the red star doing ?"
QUESTIONS = [QUESTION, "a b c"]


def test_a_file_answers_by_the_model_that_wrote_it_as_its_prefix_does(
    cache: Path, answerer: PrefixAnswerer, llava: Family
) -> None:
    settings = AnswerSettings(max_new_tokens=5)
    expected = list(answerer.ask_all(QUESTIONS, max_new_tokens=5))
    with open_cache(str(cache), settings=settings) as video:
        assert video.scope == "whole"
        assert list(video.ask_all(QUESTIONS)) == expected
        assert video.ask(QUESTION) == expected[0]
    with open_cache(cache, settings=settings, model=llava) as video:
        assert video.ask(QUESTION) == expected[0]


def test_a_folder_of_segments_answers_from_the_samples_of_each_question(folder: Path) -> None:
    with open_cache(folder, settings=AnswerSettings(max_new_tokens=2)) as video:
        assert video.scope == "retrieve"
        answers = list(video.ask_all(QUESTIONS))
    assert all(isinstance(answer, RetrievedAnswer) and answer.samples for answer in answers)
    printed = answers[0].to_dict()
    assert printed["answer"] == answers[0].text
    assert "text" not in printed


def test_another_model_is_refused_with_the_command_that_helps(cache: Path, tmp_path: Path) -> None:
    tuned = tiny.llava_next(tmp_path / "tuned", seed=1)
    with pytest.raises(ModelError, match=r"weights .*but .*tuned.*\n.*batch answer"):
        open_cache(cache, model=str(tuned))
    larger = tiny.llava_next(tmp_path / "larger", image_px=42)
    with pytest.raises(ModelError, match="config"):
        open_cache(cache, model=str(larger))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists open files by Linux's /proc")
def test_what_was_opened_is_closed_when_it_is_refused(folder: Path, tmp_path: Path) -> None:
    tuned = tiny.llava_next(tmp_path / "tuned", seed=1)
    with pytest.raises(ModelError, match="weights") as refused:
        open_cache(folder, model=str(tuned))
    assert refused.tb is not None  # keeps the segments from being collected
    opened = {link.resolve().parent for link in Path("/proc/self/fd").iterdir()}
    assert folder not in opened


def test_a_damaged_table_is_refused_before_any_answer(segments: list[CacheFile]) -> None:
    damaged = flip(segments[0], "tables", 1)
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: tables does not match"):
        open_cache(damaged.path)


@pytest.mark.parametrize("scope", ["retrieve", "each-segment"])
@pytest.mark.parametrize("number", [0, 1])
def test_no_answer_comes_from_a_damaged_block(
    llava: Family, segments: list[CacheFile], scope: Scope, number: int
) -> None:
    damaged = [*segments]
    damaged[number] = flip(segments[number], "block.00000.00", 7)
    settings = AnswerSettings(scope=scope, max_new_tokens=2)
    with (
        pytest.raises(
            CacheFileError, match=r"damaged\.safetensors: block\.00000\.00 does not match"
        ),
        VideoAnswerer(damaged, llava, Path("x.segments"), settings=settings) as video,
    ):
        list(video.ask_all(QUESTIONS))


def test_a_damaged_block_of_a_whole_video_is_found_before_any_question(
    llava: Family, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.hardlink_to(cache)
    with CacheFile.open(path) as file:
        damaged = flip(file, file.names[-1], 0)
    for scope in ("whole", "retrieve"):
        settings = AnswerSettings(scope=scope)
        with pytest.raises(
            CacheFileError, match=r"damaged\.safetensors: block\.00000\.00 does not"
        ):
            open_cache(damaged.path, model=llava, settings=settings)


def test_what_loading_took_and_saved_is_known(cache: Path, llava: Family) -> None:
    with open_cache(cache, model=llava) as opened, CacheFile.open(cache) as file:
        loading = opened.loading
        assert loading.load_bytes == cache.stat().st_size
        assert loading.load_seconds > 0
        assert loading.reencode_seconds == file.cost_seconds.sum() > 0


def test_a_whole_file_with_more_cells_than_its_model_gives_is_refused(
    llava: Family, cache: Path, tmp_path: Path
) -> None:
    path, settings = tmp_path / "hostile.safetensors", AnswerSettings(scope="retrieve")
    with CacheFile.open(cache) as honest:
        layout = replace(honest.header.layout, slots=10**14)  # fewer are no whole file
        shape = replace(honest.header.shape, rows=2_000_000, columns=2_000_000)
        hostile = rewrite(honest, path, header=replace(honest.header, shape=shape, layout=layout))
    hostile.verify()
    with (
        hostile,
        pytest.raises(ModelError, match=r"hostile\.safetensors: samples of 2000000x2000000"),
    ):
        VideoAnswerer([hostile], llava, path, settings=settings)


@pytest.mark.parametrize("scope", ["auto", "retrieve", "each-segment"])
def test_a_whole_file_of_text_alone_is_refused(cache: Path, tmp_path: Path, scope: Scope) -> None:
    path = tmp_path / "text.safetensors"
    with CacheFile.open(cache) as honest:
        tokens = {"FP16": 2, "INT8": 0, "INT4": 0}
        shape = replace(honest.header.shape, samples=0, stored_samples=0, tokens=tokens)
        tables = honest.tables
        rewrite(
            honest,
            path,
            header=replace(
                honest.header, shape=shape, layout=replace(honest.header.layout, computed=2)
            ),
            tables=Tables(
                **{name: getattr(tables, name)[:0] for name in ("time_s", "source")},
                **{
                    name: getattr(tables, name)[:2]
                    for name in ("tier", "sample", "cell", "multiplicity", "position")
                },
            ),
            block=lambda data: data[: kv_bytes(shape)],
        ).close()
    with pytest.raises(CacheFileError, match=r"text\.safetensors: holds no samples"):
        open_cache(path, settings=AnswerSettings(scope=scope))


def test_what_a_cache_cost_is_checked_before_it_is_reported(
    llava: Family, segments: list[CacheFile]
) -> None:
    damaged = [segments[0], flip(segments[1], "cost.seconds", 7)]
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: cost\.seconds does not match"):
        VideoAnswerer(damaged, llava, Path("x.segments"))


def test_several_segments_cannot_answer_as_one(folder: Path) -> None:
    with pytest.raises(BatchError, match=r"x\.segments.*: 2 segments fit no context.*\"retrieve\""):
        open_cache(folder, settings=AnswerSettings(scope="whole"))


@pytest.mark.parametrize("name", ["budget_tokens", "max_new_tokens", "batch_size"])
def test_settings_that_ask_for_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: got 0, expected at least 1"):
        AnswerSettings(**{name: 0})


@pytest.mark.parametrize("scope", ["whole", "retrieve"])
def test_a_video_of_one_sample_has_a_time_that_is_not_empty(
    llava: Family, tmp_path: Path, scope: Scope
) -> None:
    geometry = geometry_of(llava)
    path = tmp_path / "one.safetensors"
    manifest = make_manifest(random_pictures(1, geometry), geometry)
    prefill(plan_cache(manifest, llava, dtype="float32"), llava, path)
    settings = AnswerSettings(scope=scope, max_new_tokens=2)
    with open_cache(path, model=llava, settings=settings) as video:
        (time,) = video.ask(QUESTION).evidence
    assert time.start_s < time.stop_s


def ask_each_segment(family: Family, segments: list[CacheFile], folder: Path) -> list[ChosenAnswer]:
    settings = AnswerSettings(scope="each-segment", max_new_tokens=2)
    with VideoAnswerer(segments, family, folder, settings=settings) as video:
        answers = list(video.ask_all(QUESTIONS))
    chosen = [answer for answer in answers if isinstance(answer, ChosenAnswer)]
    assert [len(answer.candidates) for answer in chosen] == [len(segments)] * len(QUESTIONS)
    return chosen


def test_a_segment_that_stores_no_cell_answers_from_its_text(llava: Family, tmp_path: Path) -> None:
    geometry = llava.geometry.for_video(64, 64, 16)
    tiers: NDArray[np.uint8] = np.full((8, geometry.cells), Tier.PRUNE, np.uint8)
    tiers[0] = Tier.FP16
    manifest = make_manifest(random_pictures(8, geometry), geometry, tier=tiers)
    for answer in ask_each_segment(llava, write_segments(llava, tmp_path, manifest), tmp_path):
        assert all(np.isfinite(candidate.likelihood) for candidate in answer.candidates)


def test_of_segments_that_cannot_be_searched_one_is_in_memory_at_a_time(tmp_path: Path) -> None:
    family = unmovable(tmp_path / "model")
    geometry = family.geometry.for_video(64, 64, 16)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    segments = write_segments(family, tmp_path, manifest)
    with PrefixesAlive(family, "layer_devices") as alive:  # where a prefix goes that is loaded now
        ask_each_segment(alive.family, segments, tmp_path)
    assert alive.counts == [0] * len(segments)


def test_a_video_that_is_asked_again_is_not_loaded_again(cache: Path, llava: Family) -> None:
    with (
        PrefixesAlive(llava, "layer_devices") as alive,  # where a prefix goes that is loaded now
        VideoAnswerer([CacheFile.open(cache)], alive.family, cache) as video,
    ):
        assert video.ask(QUESTION) == video.ask(QUESTION)
    assert len(alive.counts) == 1
