"""What scenes show, in words of the model that wrote the cache."""

from pathlib import Path

import numpy as np

from batch.answering import open_cache
from batch.answering.captions import PROMPT, describe
from batch.demo.drawing import draw
from batch.demo.world import random_world
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.settings import AnswerSettings, CacheSettings
from tests.answering.caches import loaded, unmovable
from tests.manifests import geometry_of, make_manifest, random_pictures


def test_a_scene_is_described_as_if_there_were_no_others(tmp_path: Path) -> None:
    family = loaded("demo")
    world = random_world(np.random.default_rng([7, 6]), 12)
    geometry = geometry_of(family)
    pictures = np.stack([draw(world, float(second), 112) for second in range(world.samples)])
    manifest = make_manifest(pictures, geometry)
    plan = plan_cache(manifest, family, CacheSettings(quality="lossless"), dtype="float32")
    prefill(plan, family, tmp_path / "x")
    found = describe(tmp_path / "x", family)
    assert len(world.scenes) > 1
    assert [(one.time.start_s, one.time.stop_s) for one in found] == [
        (scene.first_sample, scene.end) for scene in world.scenes
    ]
    things = [scene.caption.rpartition(" on ")[0] for scene in world.scenes]
    assert [one.text.rpartition(" on ")[0] for one in found] == things


def test_where_keys_cannot_be_moved_all_of_a_file_is_described(tmp_path: Path) -> None:
    family = unmovable(tmp_path / "model")
    manifest = make_manifest(random_pictures(3, geometry_of(family)), geometry_of(family))
    plan = plan_cache(manifest, family, CacheSettings(quality="lossless"), dtype="float32")
    prefill(plan, family, tmp_path / "x")
    (found,) = describe(tmp_path / "x", family)
    with open_cache(tmp_path / "x", model=family, settings=AnswerSettings(max_new_tokens=48)) as x:
        assert found.text == x.ask(PROMPT).text
    assert (found.time.start_s, found.time.stop_s) == (0, 3)
