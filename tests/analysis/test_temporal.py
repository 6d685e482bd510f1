from dataclasses import replace

import cv2
import numpy as np
import pytest

from batch.analysis.temporal import (
    PAPER,
    TemporalSettings,
    cell_difference,
    cell_flow_px,
    compare,
)
from batch.video import Geometry, read_samples
from tests import clips

SMALL = Geometry(height_px=112, width_px=112, rows=8, columns=8)
LARGE = Geometry(height_px=336, width_px=336, rows=24, columns=24)
OURS = TemporalSettings()
BOTH = pytest.mark.parametrize("geometry", [SMALL, LARGE], ids=["8x8", "24x24"])
SCENES = {"grey": clips.flat, "texture": lambda h, w: clips.texture(h, w, contrast=20)}


@pytest.mark.parametrize("step_px", [0.5, 1, 2, 4, 6])
@BOTH
def test_the_flow_of_a_known_motion_is_found_in_every_inner_cell(geometry, step_px):
    size = geometry.height_px
    before, after = clips.moving(2, height_px=size, width_px=size, step_px=step_px)
    flow_px = cell_flow_px(after, before, geometry).reshape(geometry.rows, geometry.columns)
    assert flow_px[1:-1, 1:-1] == pytest.approx(step_px, abs=0.1)


def test_the_difference_is_the_root_mean_square_of_a_cell():
    before = np.zeros((112, 112, 3), np.uint8)
    after = before.copy()
    after[14:28, 28:42] = (51, 51, 51)
    after[0:7, 0:14, 0] = 255
    difference = cell_difference(after, before, SMALL).reshape(8, 8)
    assert difference[1, 2] == pytest.approx(0.2)
    assert difference[0, 0] == pytest.approx(np.sqrt(0.5 / 3))
    assert np.count_nonzero(difference) == 2


def test_the_difference_does_not_depend_on_the_size_of_the_cells():
    before, after = clips.flat(112, 112), clips.flat(112, 112, (150, 110, 100))
    coarse = Geometry(height_px=112, width_px=112, rows=2, columns=2)
    expected = cell_difference(after, before, coarse)[0]
    assert cell_difference(after, before, SMALL) == pytest.approx(expected)


@pytest.mark.parametrize("scene", SCENES)
@BOTH
def test_camera_noise_leaves_a_still_scene_redundant(geometry, scene):
    picture = SCENES[scene](geometry.height_px, geometry.width_px)
    for seed in range(4):
        before, after = (clips.noisy(picture, 5, seed=2 * seed + i) for i in range(2))
        change = compare(after, before, geometry, OURS)
        assert change.redundancy == 1
        assert OURS.is_redundant(change.redundancy, change.difference)


@pytest.mark.parametrize("colour", [(215, 40, 40), (240, 220, 50), (70, 215, 225), (20, 20, 20)])
@pytest.mark.parametrize("scene", SCENES)
@BOTH
def test_a_small_object_in_a_noisy_still_scene_keeps_the_sample(geometry, scene, colour):
    picture = SCENES[scene](geometry.height_px, geometry.width_px)
    for offset in range(0, 14, 2):
        place = {"top": 42 + offset, "left": 28 + (3 * offset) % 14}
        shown = clips.with_square(picture, **place, colour=colour)
        after, before = clips.noisy(shown, 5, seed=offset), clips.noisy(picture, 5, seed=99)
        change = compare(after, before, geometry, OURS)
        static = OURS.is_static(change.flow_px, change.difference)
        rows, columns = geometry.rows, geometry.columns
        centre = (place["top"] + 2) // 14 * columns + (place["left"] + 2) // 14
        assert rows == columns
        assert not static[centre]
        assert change.redundancy > OURS.redundancy_threshold
        assert not OURS.is_redundant(change.redundancy, change.difference)


def test_the_papers_rule_loses_a_small_object():
    picture = clips.flat(112, 112)
    change = compare(clips.with_square(picture, top=45, left=45), picture, SMALL, PAPER)
    assert change.redundancy >= 60 / 64
    assert PAPER.is_redundant(change.redundancy, change.difference)


@pytest.mark.parametrize("crf", ["23", "30"])
@BOTH
def test_h264_artefacts_leave_a_still_scene_redundant(tmp_path, geometry, crf):
    size = geometry.height_px
    picture = clips.texture(size, size, contrast=20)
    frames = [clips.noisy(picture, 5, seed=i) for i in range(16)]
    options = {"crf": crf, "preset": "veryfast", "g": "5"}
    path = clips.write_clip(tmp_path / "still.mp4", frames, fps=2, options=options)
    samples = [s.rgb for s in read_samples(path, geometry=geometry)]
    for sample in samples[1:]:
        change = compare(sample, samples[0], geometry, OURS)
        assert OURS.is_redundant(change.redundancy, change.difference)


def test_the_flow_is_not_computed_where_the_difference_tells_all(monkeypatch):
    picture = clips.texture(112, 112)
    monkeypatch.setattr(cv2, "calcOpticalFlowFarneback", _refuse)
    still, cut = clips.noisy(picture, 5, seed=1), clips.texture(112, 112, seed=1)
    assert compare(still, picture, SMALL, OURS).redundancy == 1
    assert compare(cut, picture, SMALL, OURS).redundancy == 0
    with pytest.raises(AssertionError, match="computed"):
        compare(still, picture, SMALL, PAPER)


@pytest.mark.parametrize("settings", [OURS, PAPER], ids=["ours", "paper"])
def test_leaving_flow_out_changes_no_cell(settings):
    before, *others = clips.moving(12, height_px=112, width_px=112, step_px=0.1)
    decided = 0
    for after in others:
        change = compare(after, before, SMALL, settings)
        difference = cell_difference(after, before, SMALL)
        flow_px = cell_flow_px(after, before, SMALL)
        flow_px[difference < settings.still_threshold] = 0
        expected = settings.is_static(flow_px, difference)
        assert np.array_equal(settings.is_static(change.flow_px, difference), expected)
        decided += np.count_nonzero(expected != (difference < settings.difference_threshold))
    assert decided > 0


def _refuse(*_: object) -> None:
    raise AssertionError("flow was computed")


def test_still_cells_have_no_flow_beside_moving_ones():
    before = clips.texture(112, 112)
    after = before.copy()
    after[28:84, 28:84] = before[28:84, 24:80]
    change = compare(after, before, SMALL, replace(OURS, difference_threshold=1.0))
    flow_px = change.flow_px.reshape(8, 8)
    assert flow_px[3:5, 3:5] == pytest.approx(4, abs=0.5)
    assert not flow_px[0].any()


def test_a_cell_is_static_only_below_both_thresholds():
    settings = TemporalSettings(flow_threshold_px=0.5, difference_threshold=0.04)
    flow_px = np.array([0.4, 0.6, 0.4, 0.5], np.float32)
    difference = np.array([0.03, 0.03, 0.05, 0.03], np.float32)
    assert settings.is_static(flow_px, difference).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "bad",
    [
        {"reference": "next"},
        {"flow_threshold_px": -1.0},
        {"difference_threshold": float("nan")},
        {"change_threshold": float("inf")},
        {"still_samples": 0},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"reference|temporal|still_samples"):
        TemporalSettings(**bad)
