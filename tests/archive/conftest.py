"""One archive and what a first run made of it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from batch.archive import index
from batch.errors import Reason
from tests import tiny
from tests.archive.archives import draw_archive, draw_hostile
from tests.archive.known import remember
from tests.archive.light import make_light_model_handler
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


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The drawn videos, of which no run knows yet."""
    draw_archive(tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> IndexedArchive:
    """The archive after its first run; not to be written to."""
    root = tmp_path_factory.mktemp("indexed")
    archive, out = root / "archive", root / "caches"
    originals = draw_archive(archive)
    hostile = draw_hostile(archive / "hostile")
    remember(model, out)
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
def fresh_out(model: Path, tmp_path: Path) -> Path:
    """An empty folder of caches that knows the model, so that runs need not ask it."""
    return remember(model, tmp_path / "caches", "cpu")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around the model: they do without it."""
    monkeypatch.setattr(index, "make_model_handler", make_light_model_handler)
