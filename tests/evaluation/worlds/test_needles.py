"""Videos of an hour: their events are spread, and each question about them has one answer."""

from collections import Counter

import numpy as np
import pytest

from batch.demo.questions import questions_about
from batch.demo.world import World, random_world
from batch.evaluation.worlds.needles import NEEDLES, moments_of, random_needle_world

KINDS_OF_SMALL = ("digit", "bead_colour", "dots", "spark")


def hour(seed: int, offset: float = 0.5) -> World:
    return random_needle_world(np.random.default_rng([12, seed]), 3600, offset=offset)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("samples", [180, 3600])
def test_scenes_fill_the_video_without_gaps(seed: int, samples: int) -> None:
    world = random_needle_world(np.random.default_rng([12, seed]), samples)
    ends = [scene.end for scene in world.scenes]
    assert [scene.first_sample for scene in world.scenes] == [0, *ends[:-1]]
    assert ends[-1] == samples


@pytest.mark.parametrize("seed", range(10))
def test_only_its_moment_shows_what_a_question_asks_for(seed: int) -> None:
    world = hour(seed)
    found = moments_of(world)
    assert len({moment.question.text for moment in found}) == len(found) == 13
    for moment in found:
        last = moment.first_sample + moment.samples - 1
        scene = world.scene_at(moment.first_sample)
        assert world.scene_at(last) is scene
        others = [other for other in world.scenes if other is not scene]
        words = moment.question.text.split()
        for shape in {thing.shape for thing in scene.things} & set(words):
            assert all(thing.shape != shape for other in others for thing in other.things)
        if "shape" in words:
            assert all(thing.colour != words[3] for other in others for thing in other.things)
    for small in KINDS_OF_SMALL:
        assert sum(getattr(scene, small) is not None for scene in world.scenes) == 1


def test_what_stands_twice_is_not_asked_for() -> None:
    asked = {moment.question.text for moment in moments_of(hour(0))}
    things = Counter(thing.shape for scene in hour(0).scenes for thing in scene.things)
    common = [shape for shape, times in things.items() if times > 1]
    assert common
    assert not asked & {f"what colour is the {shape} ?" for shape in common}


@pytest.mark.parametrize("seed", range(10))
def test_of_short_films_it_asks_what_they_answer_themselves(seed: int) -> None:
    rng = np.random.default_rng([13, seed])
    world = random_world(rng, 12)
    theirs = {question.text: question.answer for question in questions_about(world, rng)}
    ours = {moment.question.text: moment.question.answer for moment in moments_of(world)}
    shared = ours.keys() & theirs.keys()
    assert shared
    assert all(ours[text] == theirs[text] for text in shared)


def test_events_are_short_and_spread_evenly_over_videos_of_all_offsets() -> None:
    starts = []
    for number in range(3):
        found = moments_of(hour(number, (number + 0.5) / 3))
        assert all(1 <= moment.samples <= 3 for moment in found)
        firsts = {moment.first_sample for moment in found}
        assert len(firsts) == NEEDLES
        starts += sorted(firsts)
    gaps = np.diff(sorted(starts))
    assert len(starts) == 3 * NEEDLES
    assert 0.8 * 150 <= gaps.min() <= gaps.max() <= 1.2 * 150


def test_there_are_still_and_busy_stretches() -> None:
    lengths = [scene.samples for scene in hour(0).scenes]
    moving = [any(thing.moves for thing in scene.things) for scene in hour(0).scenes]
    assert sum(length for length in lengths if length >= 20) > 1200
    assert sum(length for length in lengths if length <= 8) > 1200
    assert any(moving)
    assert not any(m for m, length in zip(moving, lengths, strict=True) if length >= 20)
