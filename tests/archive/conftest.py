"""One archive and what a first run made of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from batch.errors import Reason
from tests import tiny
from tests.archive.archives import draw_archive, draw_hostile
from tests.cli.running import batch


@dataclass(frozen=True, kw_only=True)
class IndexedArchive:
    """An archive, its folder of caches, and what the run said."""

    archive: Path
    out: Path
    model: Path
    originals: dict[Path, Path]
    hostile: dict[Path, Reason]
    result: Result


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> IndexedArchive:
    """The archive after its first run; not to be written to."""
    root = tmp_path_factory.mktemp("indexed")
    archive, out = root / "archive", root / "caches"
    originals = draw_archive(archive)
    hostile = draw_hostile(archive / "hostile")
    result = batch("index", archive, "--out", out, "--model", model)
    return IndexedArchive(
        archive=archive,
        out=out,
        model=model,
        originals=originals,
        hostile=hostile,
        result=result,
    )


@pytest.fixture
def fresh_out(indexed: IndexedArchive, tmp_path: Path) -> Path:
    """An empty folder of caches that knows the model, so that runs need not ask it."""
    shutil.copytree(indexed.out / "models", tmp_path / "caches" / "models")
    return tmp_path / "caches"
