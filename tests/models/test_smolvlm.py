"""What only SmolVLM has: two resizes, a prompt with times, and what it refuses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.errors import ModelError
from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of
from tests.models import parity
from tests.models.cases import noise
from tests.tiny.smolvlm import PICTURES, smolvlm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smolvlm(tmp_path_factory.mktemp("smolvlm"))


def test_one_resize_instead_of_two_is_no_approximation(folder: Path) -> None:
    geometry, wide = geometry_of(open_family(str(folder))), noise(2, 90, 150)
    twice = parity.pictures_of(geometry, wide).astype(int)
    once = parity.pictures_of(replace(geometry, longest_px=None), wide)
    assert np.abs(once - twice).max() > 20


def test_the_prompt_tells_number_length_and_times(folder: Path) -> None:
    family = open_family(str(folder))
    geometry = geometry_of(family)
    footage = Footage(
        geometry=geometry,
        start_s=0.04,
        index=np.arange(3),
        pts_s=np.array([0.04, 12.04, 3725.04]),
        last_pts_s=np.array([0.04, 12.04, 3725.04]),
        interval_s=1.0,
        duration_s=3726.9,
    )
    layout = family.layout(footage)
    words = family.checkpoint.tokenizer
    texts = [words.decode(layout.token_ids[layout.sample == sample]) for sample in (-1, 0, 1, 2)]
    fence = "<fake_token_around_image>"
    cells = "<image>" * 4 + fence
    assert texts == [
        "<|im_start|>User: You are provided the following series of three frames from a 1:02:06 "
        "[H:MM:SS] video.\n",
        f"\nFrame from 00:00:{fence}<global-img>{cells}",
        f"\nFrame from 00:12:{fence}<global-img>{cells}",
        f"\nFrame from 62:05:{fence}<global-img>{cells}",
    ]


@pytest.mark.parametrize(
    ("settings", "longest_px"),
    [
        (
            {"size": {"longest_edge": 120}, "video_sampling": {"video_size": {"longest_edge": 90}}},
            120,
        ),
        ({"video_sampling": {"video_size": {"longest_edge": 90}}}, 90),
        ({}, 1456),
        ({"size": {"longest_edge": 5000}}, 4096),
    ],
)
def test_the_first_resize_is_the_video_processors_choice(
    folder: Path, tmp_path: Path, settings: dict[str, Any], longest_px: int
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    others = {key: PICTURES[key] for key in PICTURES if key not in ("size", "video_sampling")}
    (copy / "preprocessor_config.json").write_text(json.dumps({**others, **settings}))
    assert geometry_of(open_family(str(copy))).longest_px == longest_px


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    family = open_family(str(folder))
    with pytest.raises(ModelError, match=r"num2words is missing;  pip install 'num2words>="):
        family.layout(Footage.steady(geometry_of(family), 2))


@pytest.mark.parametrize(
    ("side_px", "patch_px", "merged", "cells_across", "covered_px"),
    [(384, 14, 3, 9, 378), (512, 16, 4, 8, 512)],
)
def test_the_grid_is_that_of_the_published_checkpoints(
    folder: Path,
    tmp_path: Path,
    side_px: int,
    patch_px: int,
    merged: int,
    cells_across: int,
    covered_px: int,
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit(copy / "preprocessor_config.json", max_image_size={"longest_edge": side_px})
    edit(
        copy / "config.json",
        scale_factor=merged,
        vision_config={"image_size": side_px, "patch_size": patch_px},
    )
    geometry = geometry_of(open_family(str(copy)))
    assert geometry.picture_shape == (side_px, side_px, 3)
    assert (geometry.rows, geometry.columns) == (cells_across, cells_across)
    assert geometry.covered == (covered_px, covered_px)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"scale_factor": 3}, "4 x 4 patches do not divide into cells of 3 x 3"),
        (
            "preprocessor_config.json",
            {"size": {"height": 60, "width": 60}},
            "supported is longest_edge",
        ),
        ("preprocessor_config.json", {"max_image_size": {"longest_edge": 84}}, "expects 60x60 px"),
        ("preprocessor_config.json", {"do_rescale": False}, "do_rescale false"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit(copy / file, **changes)
    with pytest.raises(ModelError, match=message):
        _ = open_family(str(copy)).geometry


def edit(file: Path, **changes: Any) -> None:
    """Change some values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
