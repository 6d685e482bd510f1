"""InternVL against transformers' own video processor and forward."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.errors import ModelError
from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of
from tests.models import parity
from tests.tiny.internvl import internvl

PAINTED = 2
CLIPS = {"small": parity.draw_clip(5, 56, 56), "large": parity.draw_clip(2, 90, 150)}
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return internvl(tmp_path_factory.mktemp("internvl"))


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
    theirs = parity.grey_levels(expected[clip].pixels, MEAN, DEVIATION)
    np.testing.assert_allclose(ours, theirs, atol=levels)


def test_a_painted_cell_is_the_one_the_model_sees_changed(
    folder: Path, expected: dict[str, parity.Reference]
) -> None:
    geometry = geometry_of(open_family(str(folder)))
    one, other = expected["painted"].pixels
    parity.assert_only_this_cell_differs(one, other, geometry, PAINTED)


@pytest.mark.parametrize("cell", range(4))
def test_a_painted_cell_changes_its_own_features_where_no_layer_mixes_patches(
    tmp_path: Path, cell: int
) -> None:
    family = parity.loaded(internvl(tmp_path, vision_layers=0))
    geometry, frame = geometry_of(family), CLIPS["small"][0]
    pair = np.stack([frame, parity.paint_cell(frame, geometry, cell)])
    with torch.inference_mode():
        one, other = family.features(pair, geometry)
    assert torch.nonzero((one != other).any(-1)).flatten().tolist() == [cell]


def test_text_between_two_samples_closes_one_and_numbers_the_next(folder: Path) -> None:
    family = open_family(str(folder))
    layout = family.layout(Footage.steady(geometry_of(family), 3))
    words = family.checkpoint.tokenizer
    texts = [words.decode(layout.token_ids[layout.sample == sample]) for sample in (-1, 0, 1, 2)]
    cells = "<IMG_CONTEXT>" * 4
    assert texts == [
        "<|im_start|>user\n",
        f"Frame1: <img>{cells}</img>",
        f"\nFrame2: <img>{cells}</img>",
        f"\nFrame3: <img>{cells}</img>",
    ]


def test_the_grid_of_the_published_checkpoints_has_256_cells_of_28_px(tmp_path: Path) -> None:
    geometry = geometry_of(open_family(str(changed(tmp_path, side_px=448))))
    assert geometry.picture_shape == (448, 448, 3)
    assert (geometry.rows, geometry.columns, geometry.covered) == (16, 16, (448, 448))


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vision_feature_select_strategy is 'full'"):
        open_family(str(changed(tmp_path / "1", vision_feature_select_strategy="full")))
    with pytest.raises(ModelError, match="60x60 px do not divide into a square of cells of 28 px"):
        _ = open_family(str(changed(tmp_path / "2", side_px=60))).geometry


def test_a_template_without_video_is_refused_by_name(tmp_path: Path) -> None:
    template = internvl(tmp_path) / "chat_template.jinja"
    template.write_text(template.read_text().replace("<video>", "<IMG_CONTEXT>"))
    family = open_family(str(tmp_path))
    with pytest.raises(ModelError, match=r"chat template knows no video"):
        family.question_ids("what is it ?")


def changed(folder: Path, *, side_px: int = 56, **changes: object) -> Path:
    """A checkpoint whose files say something else; its weights no longer fit."""
    internvl(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = [side_px, side_px]
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    pictures["size"] = {"height": side_px, "width": side_px}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder
