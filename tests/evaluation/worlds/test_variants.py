"""The demo world's variants: each is hard in the way it says, and asks only what is true."""

import numpy as np
import pytest

from batch.demo.drawing import draw, draw_ground
from batch.demo.questions import questions_about
from batch.demo.world import Thing, World, random_world
from batch.evaluation.worlds.variants import VARIANTS

SIZE_PX = 112


def world_of(variant: str, number: int) -> World:
    return VARIANTS[variant].random_world(np.random.default_rng([12, number]))


def movers(world: World) -> list[Thing]:
    return [thing for scene in world.scenes for thing in scene.things if thing.moves]


def test_a_plain_world_is_what_the_same_seed_draws() -> None:
    rng = np.random.default_rng([12, 3])
    assert world_of("plain", 3) == random_world(rng, int(rng.integers(4, 17)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_asks_what_has_one_answer_in_films_of_its_length(variant: str) -> None:
    for number in range(10):
        world = world_of(variant, number)
        assert VARIANTS[variant].shortest <= world.samples <= VARIANTS[variant].longest
        answers: dict[str, str] = {}
        for question in questions_about(world, np.random.default_rng(number)):
            assert answers.setdefault(question.text, question.answer) == question.answer
        assert answers


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_spark_is_on_screen_in_its_own_scene(variant: str) -> None:
    for number in range(10):
        world = world_of(variant, number)
        sparks = [scene.spark for scene in world.scenes if scene.spark is not None]
        for spark in sparks:
            for sample in range(spark.first_sample, spark.first_sample + spark.samples):
                assert world.scene_at(sample).spark == spark


def test_nothing_moves_in_an_easy_film_and_its_camera_has_no_noise() -> None:
    worlds = [world_of("easy", number) for number in range(10)]
    assert not any(map(movers, worlds))
    assert {world.noise for world in worlds} == {0.0}


def test_things_of_low_contrast_are_nearer_to_their_ground() -> None:
    world, plain = world_of("low-contrast", 0), world_of("plain", 0)
    ground = draw_ground(plain.scenes[0], SIZE_PX).astype(float)
    apart = np.abs(draw(plain, 0, SIZE_PX) - ground).mean()
    assert np.abs(draw(world, 0, SIZE_PX) - ground).mean() == pytest.approx(apart / 2, rel=0.02)


def test_a_cluttered_ground_changes_faster_from_pixel_to_pixel() -> None:
    cluttered, plain = world_of("cluttered", 0), world_of("plain", 0)
    steps = [
        np.abs(np.diff(draw_ground(world.scenes[0], SIZE_PX).astype(float), axis=1)).mean()
        for world in (cluttered, plain)
    ]
    assert steps[0] > 1.5 * steps[1]


def test_small_text_covers_less_of_the_picture() -> None:
    number = next(n for n in range(20) if world_of("plain", n).scenes[0].digit is not None)
    areas = []
    for variant in ("small-text", "plain"):
        world = world_of(variant, number)
        areas.append((draw(world, 0, SIZE_PX).min(axis=2) > 245).sum())
    assert 0 < areas[0] < 0.8 * areas[1]


def test_fast_things_are_never_under_way_in_two_samples() -> None:
    for number in range(10):
        world = world_of("fast-motion", number)
        assert movers(world)
        for thing in movers(world):
            rows = np.array([thing.xy(sample)[1] for sample in range(world.samples)])
            at_rest = np.isclose(rows, thing.start.xy[1]) | np.isclose(rows, thing.end.xy[1])
            assert (~at_rest).sum() <= 1


def test_drifting_things_move_all_the_time_and_little_at_once() -> None:
    for number in range(10):
        world = world_of("slow-drift", number)
        assert len(world.scenes) == 1
        (thing,) = movers(world)
        rows = SIZE_PX * np.array([thing.xy(sample)[1] for sample in range(world.samples)])
        steps = np.abs(np.diff(rows))
        assert steps.min() > 0.5
        assert steps.max() < 6
        assert abs(rows[-1] - rows[0]) > 0.3 * SIZE_PX


def test_nothing_but_the_spark_changes_in_a_still_film() -> None:
    for number in range(5):
        world = world_of("still-event", number)
        (scene,) = world.scenes
        assert scene.spark is not None
        changed = [
            sample
            for sample in range(world.samples)
            if (draw(world, sample, SIZE_PX) != draw_ground_with_things(world)).any()
        ]
        first = scene.spark.first_sample
        assert changed == list(range(first, first + scene.spark.samples))


def draw_ground_with_things(world: World) -> np.ndarray:
    spark = world.scenes[0].spark
    assert spark is not None
    quiet = next(t for t in range(world.samples) if not spark.seen(t))
    return draw(world, quiet, SIZE_PX)
