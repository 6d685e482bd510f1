"""Qwen2-VL against transformers' own video processor and forward."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.errors import ModelError
from batch.models import open_family
from tests.models import parity, qwen
from tests.tiny import qwen as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.qwen2_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, qwen.Clip]:
    return qwen.run(folder, {**qwen.CLIPS, "painted": qwen.painted(open_family(str(folder)))})


@pytest.mark.parametrize("name", qwen.CLIPS)
def test_tokens_and_positions_are_those_of_the_whole_conversation(
    folder: Path, clips: dict[str, qwen.Clip], name: str
) -> None:
    family, clip = open_family(str(folder)), clips[name]
    parity.assert_ids_and_positions_are(family, clip.footage(), clip.expected)


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


def test_a_sample_that_is_left_out_leaves_no_gap(folder: Path, clips: dict[str, qwen.Clip]) -> None:
    family, footage = open_family(str(folder)), clips["even"].footage()
    two = family.layout(footage.select(np.array([True, False, True])))
    np.testing.assert_array_equal(
        two.positions, family.layout(footage).positions[: len(two.positions)]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 14}, "patch_size is 14, supported is 4"),
        ({"do_resize": False}, "do_resize is False, supported is True"),
        ({"cap_pixels_per_frame": True}, "cap_pixels_per_frame is true"),
        ({"resample": 0}, "got resample 'nearest'"),
        ({"max_pixels": None, "size": {"shortest_edge": 56}}, "expected shortest_edge and longest"),
    ],
)
def test_a_processor_that_works_otherwise_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tiny.qwen2_vl(tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        _ = open_family(str(tmp_path)).geometry
