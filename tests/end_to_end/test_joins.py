"""Joined clips are cut where one ends, if an end is near."""

from pathlib import Path

import numpy as np

from batch.demo.clip import write_clip
from batch.demo.world import imagine
from tests.end_to_end.joins import borders


def test_a_segment_begins_where_a_drawn_clip_does(tmp_path: Path) -> None:
    clips = []
    for number in range(4):
        clips.append(tmp_path / f"{number}.mp4")
        # Up to two samples make one scene, so that a clip changes nowhere but at its end.
        world = imagine(np.random.default_rng([14, number]), 1)
        write_clip(world, clips[-1])
    found = borders(clips, tmp_path, context=150)
    assert found
    assert all(border.is_at_join for border in found)
