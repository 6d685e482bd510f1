"""What holds for every family of the table, and what each refuses by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch.errors import ManifestError, ModelError
from batch.families import KNOWN_FAMILIES
from batch.making.cache_plan import plan_cache
from batch.models import FAMILIES, open_family
from batch.video import Footage, Geometry
from tests import tiny
from tests.manifests import make_manifest, random_pictures
from tests.models import parity
from tests.models.cases import CASES
from tests.published import PUBLISHED
from tests.tiny import llava
from tests.tiny.families import TINY


@pytest.fixture(scope="module", params=TINY)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY[request.param](tmp_path_factory.mktemp(request.param))


def geometry_of_a_video(folder: Path) -> Geometry:
    return open_family(str(folder)).geometry.for_video(64, 64, 8)


def edit(file: Path, **changes: Any) -> None:
    """Change some values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_every_family_of_the_table_is_tested() -> None:
    assert sorted(FAMILIES) == sorted(KNOWN_FAMILIES) == sorted(TINY) == sorted(CASES)
    for model_type, known in KNOWN_FAMILIES.items():
        assert known.limits
        assert PUBLISHED[known.checkpoint].model_type == model_type


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_found_by_its_file(model_type: str) -> None:
    family = FAMILIES[model_type]
    assert family.model_type == model_type
    assert family.__module__ == f"batch.models.{model_type}"


def test_every_cell_has_one_slot_and_samples_come_in_order(folder: Path) -> None:
    geometry = geometry_of_a_video(folder)
    layout = open_family(str(folder)).layout(Footage.steady(geometry, 3))
    cells = layout.cell >= 0
    assert layout.cell[cells].tolist() == [*range(geometry.cells)] * 3
    assert layout.sample[cells].tolist() == np.repeat(range(3), geometry.cells).tolist()
    of_samples = layout.sample[layout.sample >= 0]
    assert (np.diff(of_samples) >= 0).all()


def test_the_size_of_a_block_changes_nothing_even_with_pointers(folder: Path) -> None:
    geometry = geometry_of_a_video(folder)
    pictures = random_pictures(4, geometry)
    one, all_at_once = (
        parity.scores(
            folder,
            pictures,
            geometry,
            source=[0, 0, 2, 0],
            reuse="samples",
            block_samples=size,
        )
        for size in (1, 4)
    )
    torch.testing.assert_close(one, all_at_once, atol=1e-5, rtol=1e-5)


def test_a_manifest_of_another_family_is_refused_with_the_command_that_helps(
    folder: Path, tmp_path: Path
) -> None:
    family = open_family(str(folder))
    another = "llava" if family.model_type == "llava_next" else "llava_next"
    geometry = geometry_of_a_video(TINY[another](tmp_path))
    manifest = make_manifest(random_pictures(2, geometry), geometry)
    with pytest.raises(ManifestError, match=r"drawn\.mp4: the manifest was made for") as refused:
        plan_cache(manifest, family, dtype="float32")
    assert f"batch analyze --model {folder}" in str(refused.value)


def test_an_unknown_family_is_refused_with_the_known_ones_and_how_to_add_it(
    tmp_path: Path,
) -> None:
    tiny.llava_next(tmp_path)
    edit(tmp_path / "config.json", model_type="vipllava")
    with pytest.raises(ModelError, match="'vipllava' is not supported") as refused:
        open_family(str(tmp_path))
    assert ", ".join(sorted(FAMILIES)) in str(refused.value)
    assert "CONTRIBUTING.md" in str(refused.value)


@pytest.mark.parametrize(
    ("write", "side_px", "cells_across", "covered_px"),
    [
        (llava.llava, 336, 24, 336),
        (llava.llava_next_video, 336, 12, 336),
        (llava.llava_onevision, 384, 14, 378),
    ],
)
def test_the_grid_is_that_of_the_pictures_on_which_the_families_were_trained(
    tmp_path: Path,
    write: Callable[..., Path],
    side_px: int,
    cells_across: int,
    covered_px: int,
) -> None:
    geometry = geometry_of_a_video(write(tmp_path, side_px=side_px))
    assert geometry.picture_shape == (side_px, side_px, 3)
    assert (geometry.rows, geometry.columns) == (cells_across, cells_across)
    assert geometry.covered == (covered_px, covered_px)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llava", {"vision_feature_select_strategy": "full"}),
        ("llava_next", {"vision_feature_select_strategy": "full"}),
        ("llava_next_video", {"vision_feature_select_strategy": "full"}),
        ("llava_next_video", {"spatial_pool_stride": 4}),
        ("llava_onevision", {"vision_feature_select_strategy": "default"}),
    ],
)
def test_a_config_that_a_family_does_not_support_is_refused_by_name(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    TINY[model_type](tmp_path)
    edit(tmp_path / "config.json", **changes)
    ((name, value),) = changes.items()
    with pytest.raises(ModelError, match=f"{tmp_path}: {name} is {value!r}, supported is"):
        open_family(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_normalize": False}, "do_normalize false"),
        ({"crop_size": {"height": 28, "width": 56}}, "expects 56x56 px"),
        ({"do_center_crop": False}, "expects 56x56 px"),
        ({"size": {"height": 64, "width": 64}}, "expects 56x56 px"),
        ({"size": 40}, "shortest_px 40"),
    ],
)
def test_a_processor_that_makes_other_pictures_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    llava.llava_next_video(tmp_path)
    edit(tmp_path / "video_preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match=message):
        _ = open_family(str(tmp_path)).geometry


def test_padding_to_a_square_is_refused_by_name(tmp_path: Path) -> None:
    llava.llava(tmp_path)
    images = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    edit(tmp_path / "processor_config.json", image_processor={**images, "do_pad": True})
    with pytest.raises(ModelError, match="do_pad is true, supported is false"):
        open_family(str(tmp_path))


@pytest.mark.parametrize("model_type", ["llava", "llava_next", "llava_next_video"])
def test_a_chat_template_without_pictures_is_refused(tmp_path: Path, model_type: str) -> None:
    TINY[model_type](tmp_path)
    (tmp_path / "chat_template.jinja").write_text("what is this ?")
    family = open_family(str(tmp_path))
    with pytest.raises(ModelError, match="the chat template gives 0 tokens"):
        family.question_ids("what ?")
