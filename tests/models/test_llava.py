"""What only families of LLaVA have: an image processor of their own, and cells cut from patches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from batch.models import open_family
from tests.manifests import geometry_of
from tests.models import parity
from tests.models.cases import draw_clip
from tests.tiny.llava import llava, llava_onevision

FRAMES = draw_clip(5, 28, 28)


@pytest.mark.parametrize("size", [(28, 28), (40, 60), (61, 33), (20, 90)])
def test_the_picture_is_the_image_processors_to_the_bit(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    frame = draw_clip(1, *size)[0]
    images = AutoProcessor.from_pretrained(llava(tmp_path)).image_processor
    theirs = images(Image.fromarray(frame), do_normalize=False, do_rescale=False)
    ours = geometry_of(open_family(str(tmp_path))).apply(frame)
    np.testing.assert_array_equal(ours, theirs["pixel_values"][0].transpose(1, 2, 0))


def test_what_the_processors_file_leaves_out_is_its_default(tmp_path: Path) -> None:
    file = llava(tmp_path) / "processor_config.json"
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


@pytest.mark.parametrize("cell", range(4))
def test_a_painted_cell_changes_its_own_features_most_where_they_are_interpolated(
    tmp_path: Path, cell: int
) -> None:
    family = parity.loaded(llava_onevision(tmp_path, vision_feature_layer=-3))
    frame = draw_clip(1, 48, 48)[0]
    changes = parity.features_changed_by(family, frame, geometry_of(family), cell)
    assert changes.argmax() == cell  # neighbours see the edge of a cell


def test_pixels_that_no_cell_stands_for_reach_no_features(tmp_path: Path) -> None:
    family = parity.loaded(llava_onevision(tmp_path))
    frame = draw_clip(1, 48, 48)[0]
    cut = frame.copy()
    cut[42:], cut[:, 42:] = 0, 0
    geometry = geometry_of(family)
    with torch.inference_mode():
        one, other = family.features(np.stack([frame, cut]), geometry)
    assert geometry.covered == (42, 42)
    torch.testing.assert_close(one, other)
