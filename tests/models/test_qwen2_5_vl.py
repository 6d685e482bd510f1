"""Qwen2.5-VL against transformers' own video processor and forward."""

from pathlib import Path

import numpy as np
import pytest

from batch.models import open_family
from tests.models import parity, qwen
from tests.tiny import qwen as tiny

FPS = 3.0
"""A rate at which samples stand at fractions of a position."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.qwen2_5_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, qwen.Clip]:
    return qwen.run(folder, {**qwen.CLIPS, "painted": qwen.painted(open_family(str(folder)))})


@pytest.mark.parametrize("name", qwen.CLIPS)
def test_tokens_and_positions_are_those_of_the_whole_conversation(
    folder: Path, clips: dict[str, qwen.Clip], name: str
) -> None:
    family, clip = open_family(str(folder)), clips[name]
    parity.assert_ids_and_positions_are(family, clip.footage(), clip.expected)


def test_positions_at_fractions_of_a_second_are_cut_off_as_in_transformers(folder: Path) -> None:
    family, frames = open_family(str(folder)), parity.draw_clip(20, 16, 16)
    clip = qwen.run(folder, {"fast": frames}, FPS)["fast"]
    is_cell = clip.expected.token_ids == family.config.video_token_id
    times = np.unique(clip.expected.positions[is_cell, 0])
    assert set(np.diff(times)) == {1, 2}
    parity.assert_ids_and_positions_are(family, clip.footage(1 / FPS), clip.expected)


@pytest.mark.parametrize("name", ["even", "odd"])
def test_scores_equal_transformers_own(
    folder: Path, clips: dict[str, qwen.Clip], name: str
) -> None:
    clip = clips[name]
    parity.assert_scores_are_transformers_own(folder, clip.merged, clip.geometry, clip.expected)


def test_a_compressed_video_scores_as_transformers_with_the_dropped_slots_masked(
    folder: Path, clips: dict[str, qwen.Clip]
) -> None:
    clip = clips["even"]
    parity.assert_compressed_scores_are_those_of_masked_slots(
        folder, clip.pictures, clip.geometry, source=[0, 1, 1]
    )


@pytest.mark.parametrize(("name", "levels"), [("odd", 0), ("large", 2)])
def test_the_picture_is_the_video_processors(
    clips: dict[str, qwen.Clip], name: str, levels: int
) -> None:
    np.testing.assert_allclose(clips[name].pictures, clips[name].seen, atol=levels)


def test_a_painted_cell_is_the_one_the_model_sees_changed(clips: dict[str, qwen.Clip]) -> None:
    changed = clips["painted"].changed()
    assert changed.tolist() == [float(cell == qwen.PAINTED) for cell in range(len(changed))]


def test_a_sample_keeps_its_time_when_an_earlier_one_is_left_out(
    folder: Path, clips: dict[str, qwen.Clip]
) -> None:
    family, footage = open_family(str(folder)), clips["even"].footage()
    two = family.layout(footage.select(np.array([True, False, True])))
    whole = family.layout(footage)
    np.testing.assert_array_equal(two.positions, whole.positions[whole.sample != 1])
    assert two.next_position == whole.next_position
