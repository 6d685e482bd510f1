"""Two videos in one folder of caches, and the tiny model that wrote them."""

from pathlib import Path

import pytest

from batch.models import Family
from batch.serving.library import Library
from batch.serving.shelf import Shelf
from batch.settings import AnswerSettings, WriterSettings
from tests import clips, tiny
from tests.cli.running import succeed

MOST_TOKENS = 8


@pytest.fixture(scope="package")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    model = tiny.llava_next(root / "model")
    for seed, name in enumerate(("a", "b")):
        frames = clips.moving(20, height_px=48, width_px=64, step_px=3, seed=seed)
        clips.write_clip(root / f"{name}.mp4", frames)
    succeed("prefill", root / "a.mp4", root / "b.mp4", "--out", root / "caches", "--model", model)
    return root / "caches"


@pytest.fixture(scope="package")
def family(caches: Path) -> Family:
    return Library(caches).load_model(WriterSettings(device="cpu", dtype="float32"))


@pytest.fixture
def library(caches: Path) -> Library:
    return Library(caches)


@pytest.fixture
def shelf(family: Family) -> Shelf:
    return Shelf(family, AnswerSettings(max_new_tokens=MOST_TOKENS), 1 << 30)
