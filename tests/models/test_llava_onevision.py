"""LLaVA-OneVision against transformers' own video processor and forward."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of
from tests.models import parity
from tests.tiny import llava as tiny

PAINTED = 2
CLIPS = {"small": parity.draw_clip(5, 48, 48), "large": parity.draw_clip(2, 90, 150)}
MEAN, DEVIATION = np.array(OPENAI_CLIP_MEAN), np.array(OPENAI_CLIP_STD)  # the defaults


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_onevision(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, parity.Reference]:
    geometry = geometry_of(open_family(str(folder)))
    first = CLIPS["small"][0]
    pair = np.stack([first, parity.paint_cell(first, geometry, PAINTED)])
    clips = {**CLIPS, "painted": pair}
    found = parity.references(folder, list(clips.values()), "video")
    return dict(zip(clips, found, strict=True))


@pytest.mark.parametrize("clip", CLIPS)
def test_tokens_and_positions_are_those_of_the_whole_conversation(
    folder: Path, expected: dict[str, parity.Reference], clip: str
) -> None:
    family = open_family(str(folder))
    footage = Footage.steady(geometry_of(family), len(CLIPS[clip]))
    parity.assert_ids_and_positions_are(family, footage, expected[clip])


def test_scores_equal_transformers_own(folder: Path, expected: dict[str, parity.Reference]) -> None:
    geometry = geometry_of(open_family(str(folder)))
    parity.assert_scores_are_transformers_own(folder, CLIPS["small"], geometry, expected["small"])


def test_a_compressed_video_scores_as_transformers_with_the_dropped_slots_masked(
    folder: Path,
) -> None:
    geometry = geometry_of(open_family(str(folder)))
    parity.assert_compressed_scores_are_those_of_masked_slots(
        folder, CLIPS["small"], geometry, source=[0, 1, 1, 3, 3]
    )


@pytest.mark.parametrize(("clip", "levels"), [("small", 0), ("large", 2)])
def test_the_picture_is_the_video_processors(
    folder: Path, expected: dict[str, parity.Reference], clip: str, levels: int
) -> None:
    geometry = geometry_of(open_family(str(folder)))
    ours = parity.pictures_of(geometry, CLIPS[clip])
    theirs = parity.grey_levels(expected[clip].pixels[0], MEAN, DEVIATION)
    np.testing.assert_allclose(ours, theirs, atol=levels)


def test_a_painted_cell_is_the_one_the_model_sees_changed(
    folder: Path, expected: dict[str, parity.Reference]
) -> None:
    geometry = geometry_of(open_family(str(folder)))
    one, other = expected["painted"].pixels[0]
    parity.assert_only_this_cell_differs(one, other, geometry, PAINTED)


@pytest.mark.parametrize("cell", range(4))
def test_a_painted_cell_changes_its_own_features_most_where_no_layer_mixes_patches(
    tmp_path: Path, cell: int
) -> None:
    family = parity.loaded(tiny.llava_onevision(tmp_path, vision_feature_layer=-3))
    changes = parity.features_changed_by(family, CLIPS["small"][0], geometry_of(family), cell)
    assert changes.argmax() == cell  # interpolation lets neighbours see the edge of a cell


def test_pixels_that_no_cell_stands_for_reach_no_features(tmp_path: Path) -> None:
    family = parity.loaded(tiny.llava_onevision(tmp_path))
    frame = CLIPS["small"][0].copy()
    frame[42:], frame[:, 42:] = 0, 0
    geometry = geometry_of(family)
    with torch.inference_mode():
        one, other = family.features(np.stack([CLIPS["small"][0], frame]), geometry)
    assert geometry.covered == (42, 42)
    torch.testing.assert_close(one, other)
