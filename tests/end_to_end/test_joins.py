"""Joined clips are cut where one ends, if an end is near."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from batch.demo.drawing import write_clip
from batch.demo.world import random_world
from tests.end_to_end.joins import measure


def test_a_segment_begins_where_a_drawn_clip_does(tmp_path: Path) -> None:
    clips = []
    for number in range(6):
        clips.append(tmp_path / f"{number}.mp4")
        world = random_world(np.random.default_rng([14, number]), 1)
        still = tuple(replace(scene, samples=6) for scene in world.scenes)
        write_clip(replace(world, scenes=still, noise=0.0), clips[-1])
    found = measure(clips, tmp_path, context=300).borders
    assert len(found) >= 2
    assert all(border.is_at_join for border in found)
