"""The demo world: what is asked is true of what is filmed."""

from pathlib import Path

import numpy as np
import pytest

from batch.demo.checkpoint import new_tokenizer
from batch.demo.clip import FRAMES_PER_S, write_clip
from batch.demo.drawing import draw
from batch.demo.questions import KINDS, ask
from batch.demo.world import imagine
from batch.video import Geometry, read_samples

GEOMETRY = Geometry(height_px=112, width_px=112, rows=8, columns=8)


@pytest.mark.parametrize("seed", range(30))
def test_every_answer_is_the_only_true_one(seed: int) -> None:
    rng = np.random.default_rng([9, seed])
    world = imagine(rng, int(rng.integers(1, 20)))
    things = [thing for scene in world.scenes for thing in scene.things]
    assert len({thing.shape for thing in things}) == len(things)
    assert len({thing.colour for thing in things}) == len(things)
    assert sum(scene.spark is not None for scene in world.scenes) == 1
    assert sum(scene.dots is not None for scene in world.scenes) == 1
    answers: dict[str, str] = {}
    for question in ask(world, rng):
        assert question.kind in KINDS
        assert answers.setdefault(question.text, question.answer) == question.answer
    by_colour = {thing.colour: thing.shape for thing in things}
    for text, answer in answers.items():
        if text.startswith("what shape is"):
            assert by_colour[text.split()[3]] == answer


def test_every_kind_is_asked_and_every_word_is_known() -> None:
    tokenizer = new_tokenizer()
    kinds = set()
    for seed in range(20):
        rng = np.random.default_rng([10, seed])
        for question in ask(imagine(rng, 12), rng):
            kinds.add(question.kind)
            ids = tokenizer(f"{question.text} {question.answer}").input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[-len(question.answer.split()) :]) == question.answer
    assert kinds == set(KINDS)


def test_a_spark_is_seen_in_its_samples_only() -> None:
    rng = np.random.default_rng(4)
    world = imagine(rng, 12)
    (spark,) = (scene.spark for scene in world.scenes if scene.spark)
    seen = [sample for sample in range(12) if spark.seen(sample)]
    assert seen == list(range(spark.first_sample, spark.first_sample + spark.samples))
    assert len(seen) <= 2


def test_a_film_read_back_shows_the_world_at_each_second(tmp_path: Path) -> None:
    world = imagine(np.random.default_rng(11), 6)
    write_clip(world, tmp_path / "film.mp4")
    samples = list(read_samples(tmp_path / "film.mp4", geometry=GEOMETRY))
    assert [sample.frame for sample in samples] == [k * FRAMES_PER_S for k in range(6)]
    for sample in samples:
        expected = GEOMETRY.apply(draw(world, sample.index, 224)).astype(float)
        assert np.abs(sample.rgb - expected).mean() < 8
        other = GEOMETRY.apply(draw(world, 5 - sample.index, 224)).astype(float)
        if world.scene_at(sample.index) is not world.scene_at(5 - sample.index):
            assert np.abs(sample.rgb - other).mean() > 8


def test_the_same_seed_films_the_same_bytes(tmp_path: Path) -> None:
    films = set()
    for number in range(4):
        write_clip(imagine(np.random.default_rng([1, 0]), 12), tmp_path / f"{number}.mp4")
        films.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(films) == 1
