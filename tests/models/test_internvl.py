"""What only InternVL has: its numbered frames, its grid, and what it refuses."""

import json
from pathlib import Path

import pytest

from batch.errors import ModelError
from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of
from tests.tiny.internvl import internvl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return internvl(tmp_path_factory.mktemp("internvl"))


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
