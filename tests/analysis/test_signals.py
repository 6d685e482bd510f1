"""A scene begins where most of a picture shows something else, not where light changes."""

from pathlib import Path

import numpy as np
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.signals import CELL_CHANGE, SCENE_SHARE, Signals, changed_shares
from batch.demo.drawing import write_clip
from batch.evaluation.worlds.needles import random_needle_world
from batch.video import Geometry
from tests import clips

GEOMETRY = Geometry(height_px=112, width_px=112, rows=8, columns=8)


def signals_of(video: Path) -> Signals:
    manifest = analyze_video(
        video,
        GEOMETRY,
        AnalysisSettings.of_profile(),
    )
    return manifest.signals


def test_a_picture_of_something_else_begins_a_scene_light_and_an_object_do_not(
    tmp_path: Path,
) -> None:
    room, other = clips.flat(112, 112), clips.flat(112, 112, (60, 90, 120))
    room[:, :80] = clips.texture(112, 80, contrast=20)
    other[:, 32:] = clips.texture(112, 80, contrast=20, seed=1)
    frames = {
        "first": room,
        "darker": (0.85 * room).astype(np.uint8),
        "object": clips.with_square(room, top=20, left=60, side=30),
        "light": room,
        "cut": other,
        "return": room,
    }
    video = clips.write_clip(tmp_path / "clip.mp4", frames.values(), fps=1)
    signals = signals_of(video)
    assert signals.kept.all()
    begins = dict(zip(frames, changed_shares(signals) > SCENE_SHARE, strict=True))
    assert [name for name, is_scene in begins.items() if is_scene] == ["cut", "return"]
    darker = (signals.difference[1] > CELL_CHANGE).mean()
    assert darker > SCENE_SHARE  # only its saliency tells light from a cut


@pytest.mark.parametrize("seed", range(2))
def test_most_scenes_of_a_drawn_film_are_found_and_nothing_else(tmp_path: Path, seed: int) -> None:
    world = random_needle_world(np.random.default_rng([16, seed]), 320)
    write_clip(world, tmp_path / "film.mp4", frames_per_s=1, preset="ultrafast")
    signals = signals_of(tmp_path / "film.mp4")
    found = np.flatnonzero(signals.kept)[changed_shares(signals) > SCENE_SHARE].tolist()
    begin = [scene.first_sample for scene in world.scenes][1:]
    assert set(found) <= set(begin)
    assert len(found) > 0.7 * len(begin)
