"""The demo world: what is asked is true of what is filmed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from batch.demo.drawing import FRAMES_PER_S, draw, write_clip
from batch.demo.questions import KINDS, questions_about
from batch.demo.world import Scene, World, random_world
from batch.evaluation.training.checkpoint import new_tokenizer
from batch.video import Geometry, read_samples

GEOMETRY = Geometry(height_px=112, width_px=112, rows=8, columns=8)


@pytest.mark.parametrize("seed", range(30))
def test_every_answer_is_the_only_true_one(seed: int) -> None:
    rng = np.random.default_rng([9, seed])
    world = random_world(rng, int(rng.integers(1, 20)))
    things = [thing for scene in world.scenes for thing in scene.things]
    assert len({thing.shape for thing in things}) == len(things)
    assert len({thing.colour for thing in things}) == len(things)
    assert sum(scene.spark is not None for scene in world.scenes) == 1
    assert sum(scene.dots is not None for scene in world.scenes) == 1
    answers: dict[str, str] = {}
    for question in questions_about(world, rng):
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
        for question in questions_about(random_world(rng, 12), rng):
            kinds.add(question.kind)
            ids = tokenizer(f"{question.text} {question.answer}").input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[-len(question.answer.split()) :]) == question.answer
    assert kinds == set(KINDS)


def test_a_spark_is_seen_in_its_samples_only() -> None:
    rng = np.random.default_rng(4)
    world = random_world(rng, 12)
    (spark,) = (scene.spark for scene in world.scenes if scene.spark)
    seen = [sample for sample in range(12) if spark.seen(sample)]
    assert seen == list(range(spark.first_sample, spark.first_sample + spark.samples))
    assert len(seen) <= 2


def test_a_film_read_back_shows_the_world_at_each_second(tmp_path: Path) -> None:
    world = random_world(np.random.default_rng(11), 6)
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
    for number in range(2):
        write_clip(random_world(np.random.default_rng([1, 0]), 4), tmp_path / f"{number}.mp4")
        films.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(films) == 1


def test_a_film_of_fewer_frames_shows_the_same_samples(tmp_path: Path) -> None:
    world = random_world(np.random.default_rng(11), 6)
    write_clip(world, tmp_path / "a.mp4")
    write_clip(world, tmp_path / "b.mp4", frames_per_s=1, preset="ultrafast")
    one, other = (
        list(read_samples(tmp_path / name, geometry=GEOMETRY)) for name in ("a.mp4", "b.mp4")
    )
    assert [sample.pts_s for sample in one] == [sample.pts_s for sample in other]
    for mine, its in zip(one, other, strict=True):
        assert np.abs(mine.rgb.astype(float) - its.rgb).mean() < 8


@dataclass(frozen=True, kw_only=True)
class WatchedWorld(World):
    """Notes the size of its film whenever it is asked what is on screen."""

    film: Path
    sizes: list[int]

    def scene_at(self, time_s: float) -> Scene:
        self.sizes.append(self.film.stat().st_size if self.film.exists() else 0)
        return super().scene_at(time_s)


def test_frames_are_encoded_as_they_are_drawn(tmp_path: Path) -> None:
    film, sizes = tmp_path / "a.mp4", list[int]()
    drawn = random_world(np.random.default_rng(3), 180)
    world = WatchedWorld(**vars(drawn), film=film, sizes=sizes)
    write_clip(world, film, frames_per_s=1, preset="ultrafast")
    assert len(sizes) >= 180
    assert sizes[len(sizes) // 2] > 0.2 * film.stat().st_size
