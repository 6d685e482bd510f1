"""Films drawn over clips: real ground, things in its light, cuts between clips."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from batch.demo.world import Scene, World, random_world
from batch.errors import BatchError
from batch.evaluation.data import demo_set
from batch.evaluation.worlds.backgrounds import Backgrounds, Clip, find_clips
from tests.clips import write_clip
from tests.models.cases import draw_clip

SIZE_PX = 224


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark clip and a bright one, of blots that change with every frame."""
    folder = tmp_path_factory.mktemp("clips")
    dark = (draw_clip(24, 120, 160, seed=1) * 0.15).astype(np.uint8)
    bright = (255 - draw_clip(24, 120, 160, seed=2) * 0.15).astype(np.uint8)
    write_clip(folder / "dark.mp4", dark, fps=8)
    write_clip(folder / "light.mkv", bright, fps=8)
    (folder / "README.md").write_text("not a clip")
    return folder


def without_things(world: World) -> World:
    bare = {"digit_place": None, "bead_place": None, "dots_place": None, "spark": None}
    empty = {"things": (), "digit": None, "bead_colour": None, "dots": None, **bare}
    return replace(world, scenes=tuple(replace(scene, **empty) for scene in world.scenes))


def world_of(seed: int, samples: int = 8) -> World:
    return random_world(np.random.default_rng([7, seed]), samples)


def scenes_of(seeds: range) -> list[tuple[World, Scene]]:
    return [
        (world, scene) for seed in seeds for world in [world_of(seed)] for scene in world.scenes
    ]


def test_clips_are_found_by_their_names(folder: Path, tmp_path: Path) -> None:
    assert [clip.name for clip in find_clips(folder)] == ["dark.mp4", "light.mkv"]
    with pytest.raises(BatchError, match="no clip here"):
        find_clips(tmp_path)


def test_what_is_not_a_thing_is_the_clip(folder: Path) -> None:
    grounds = Backgrounds(find_clips(folder))
    world = world_of(0)
    picture, ground = (grounds.draw(one, 1, SIZE_PX) for one in (world, without_things(world)))
    things = (picture != ground).any(axis=2)
    assert 0.02 < things.mean() < 0.4
    frames = np.concatenate([clip.frames.reshape(-1, 3) for clip in grounds.clips])
    assert ground.min() >= frames.min()
    assert ground.max() <= frames.max()


def test_a_scene_stands_on_one_clip_and_a_film_is_cut_from_clip_to_clip(folder: Path) -> None:
    grounds = Backgrounds(find_clips(folder))
    clips_of_films = []
    for seed in range(8):
        world = without_things(world_of(seed))
        clips = [
            {
                bool(grounds.draw(world, k, SIZE_PX).mean() > 128)
                for k in range(scene.first_sample, scene.end)
            }
            for scene in world.scenes
        ]
        assert all(len(of_scene) == 1 for of_scene in clips)
        clips_of_films.append(len(set.union(*clips)))
    assert set(clips_of_films) == {1, 2}


def test_some_scenes_stand_still_and_others_do_not(folder: Path) -> None:
    grounds = Backgrounds(find_clips(folder))
    still = []
    for world, scene in scenes_of(range(12)):
        if scene.samples > 1:
            bare = without_things(world)
            pair = [grounds.draw(bare, scene.first_sample + k, SIZE_PX) for k in (0, 1)]
            still.append(bool((pair[0] == pair[1]).all()))
    assert set(still) == {True, False}


def test_things_are_darker_on_a_dark_ground(folder: Path) -> None:
    world = world_of(1, samples=1)
    levels = []
    for clip in find_clips(folder):
        grounds = Backgrounds([clip])
        picture = grounds.draw(world, 0, SIZE_PX)
        ground = grounds.draw(without_things(world), 0, SIZE_PX)
        levels.append(float(picture[(picture != ground).any(axis=2)].mean()))
    assert levels[0] < 0.85 * levels[1]


def test_noise_of_a_clip_is_measured_and_given_to_things(tmp_path: Path) -> None:
    smooth = cv2.resize(draw_clip(1, 6, 6)[0], (256, 256), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(0)
    for sigma in (0.0, 8.0):
        clip = Clip(tmp_path / "unread.mp4")
        noisy = smooth + sigma * rng.standard_normal(smooth.shape)
        grey = np.repeat(noisy.mean(axis=2, keepdims=True), 3, axis=2)
        clip.__dict__["frames"] = np.clip(grey, 0, 255).astype(np.uint8)[None]
        expected = sigma / 3**0.5  # grey is the mean of three channels
        assert clip.noise == pytest.approx(expected, abs=0.7)


def test_a_film_over_clips_asks_the_same_but_no_captions(folder: Path, tmp_path: Path) -> None:
    grounds = Backgrounds(find_clips(folder))
    plain = demo_set("easy", tmp_path, videos=2, seed=9)
    over = demo_set("easy", tmp_path, videos=2, seed=9, backgrounds=grounds)
    assert over.name == "demo easy over clips"
    expected = [(q.question, q.answer) for q in plain.questions if q.kind != "caption"]
    assert [(q.question, q.answer) for q in over.questions] == expected
    assert {q.video for q in over.questions}.isdisjoint(q.video for q in plain.questions)


def test_the_same_moment_is_drawn_the_same(folder: Path) -> None:
    one, other = (Backgrounds(find_clips(folder)).draw(world_of(2), 1.5, SIZE_PX) for _ in "ab")
    np.testing.assert_array_equal(one, other)
