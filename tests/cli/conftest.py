"""One tiny model, one drawn clip, and what the commands made of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import clips
from tests.cli.running import succeed


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds: one of a moving scene, three of a blank wall. The last sample is a pointer."""
    moving = clips.moving(10, height_px=48, width_px=64, step_px=3)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return clips.write_clip(path, [*moving, *[clips.flat(48, 64)] * 30])


@pytest.fixture(scope="session")
def made(model: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manifest and the cache of the clip; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    succeed("prefill", clip, "--out", folder, "--model", model)
    return folder


@pytest.fixture(scope="session")
def manifest(made: Path) -> Path:
    return made / "clip.parquet"


@pytest.fixture(scope="session")
def cache(made: Path) -> Path:
    return made / "clip.safetensors"


@pytest.fixture(autouse=True)
def no_temporary_file_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.tmp"))
