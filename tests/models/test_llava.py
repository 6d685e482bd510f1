"""LLaVA-1.5 against transformers' own processor and forward, an image for each sample."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of
from tests.models import parity
from tests.tiny import llava as tiny

FRAMES = parity.draw_clip(5, 28, 28)
PAINTED = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> parity.Reference:
    return parity.reference(folder, FRAMES, "image")


def test_tokens_and_positions_are_those_of_the_whole_conversation(
    folder: Path, expected: parity.Reference
) -> None:
    family = open_family(str(folder))
    footage = Footage.steady(geometry_of(family), len(FRAMES))
    parity.assert_ids_and_positions_are(family, footage, expected)


def test_scores_equal_transformers_own(folder: Path, expected: parity.Reference) -> None:
    geometry = geometry_of(open_family(str(folder)))
    parity.assert_scores_are_transformers_own(folder, FRAMES, geometry, expected)


def test_a_compressed_video_scores_as_transformers_with_the_dropped_slots_masked(
    folder: Path,
) -> None:
    geometry = geometry_of(open_family(str(folder)))
    parity.assert_compressed_scores_are_those_of_masked_slots(
        folder, FRAMES, geometry, source=[0, 1, 1, 3, 3]
    )


@pytest.mark.parametrize("size", [(28, 28), (40, 60), (61, 33), (20, 90)])
def test_the_picture_is_the_image_processors(folder: Path, size: tuple[int, int]) -> None:
    frame = parity.draw_clip(1, *size)[0]
    images = AutoProcessor.from_pretrained(folder).image_processor
    theirs = images(Image.fromarray(frame), do_normalize=False, do_rescale=False)
    ours = geometry_of(open_family(str(folder))).apply(frame)
    np.testing.assert_array_equal(ours, theirs["pixel_values"][0].transpose(1, 2, 0))


def test_what_the_processors_file_leaves_out_is_its_default(tmp_path: Path) -> None:
    file = tiny.llava(tmp_path) / "processor_config.json"
    processor = json.loads(file.read_text())
    stated = {"image_processor_type", "size", "crop_size"}
    images = {key: value for key, value in processor["image_processor"].items() if key in stated}
    file.write_text(json.dumps({**processor, "image_processor": images}))
    family = parity.loaded(tmp_path)
    pixels = AutoProcessor.from_pretrained(tmp_path).image_processor(list(FRAMES))["pixel_values"]
    with torch.inference_mode():
        theirs = family.model.model.get_image_features(torch.tensor(np.array(pixels)))
        ours = family.features(FRAMES, geometry_of(family))
    torch.testing.assert_close(ours, torch.stack(theirs.pooler_output))


def test_a_painted_cell_is_the_one_the_model_sees_changed(folder: Path) -> None:
    geometry = geometry_of(open_family(str(folder)))
    pair = [FRAMES[0], parity.paint_cell(FRAMES[0], geometry, PAINTED)]
    images = AutoProcessor.from_pretrained(folder).image_processor
    one, other = images(pair, return_tensors="np")["pixel_values"]
    parity.assert_only_this_cell_differs(one, other, geometry, PAINTED)


@pytest.mark.parametrize("cell", range(4))
def test_a_painted_cell_changes_its_own_features_where_no_layer_mixes_patches(
    tmp_path: Path, cell: int
) -> None:
    family = parity.loaded(tiny.llava(tmp_path, vision_feature_layer=-4))
    changes = parity.features_changed_by(family, FRAMES[0], geometry_of(family), cell)
    assert torch.nonzero(changes).flatten().tolist() == [cell]
