"""One archive and what a first run made of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from batch.errors import Reason
from tests.archive.archives import draw_archive, draw_hostile
from tests.archive.indexing import Heard, remember, run_index
from tests.cli.running import batch


@dataclass(frozen=True, kw_only=True)
class IndexedArchive:
    """An archive and its folder of caches, and what the command said that made them."""

    archive: Path
    out: Path
    model: Path
    originals: dict[Path, Path]
    hostile: dict[Path, Reason]
    result: Result

    def run(self, **changes: Any) -> Heard:
        """Once more, without a model."""
        return run_index(self.archive, self.out, self.model, **changes)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of an archive; not to be written to."""
    root = tmp_path_factory.mktemp("drawn")
    draw_archive(root)
    return root


@pytest.fixture
def archive(drawn: Path, tmp_path: Path) -> Path:
    """The drawn videos, of which no run knows yet."""
    return Path(shutil.copytree(drawn, tmp_path / "archive"))


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, model: Path, known: Path) -> IndexedArchive:
    """The archive after its first run; not to be written to."""
    root = tmp_path_factory.mktemp("indexed")
    archive, out = root / "archive", Path(shutil.copytree(known, root / "caches"))
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
def copied_out(indexed: IndexedArchive, tmp_path: Path) -> Path:
    """A copy of the folder of caches, to be changed."""
    return Path(shutil.copytree(indexed.out, tmp_path / "out"))


@pytest.fixture(scope="session")
def known(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches that knows the model, and holds none."""
    return remember(model, tmp_path_factory.mktemp("known"), "cpu")


@pytest.fixture
def fresh_out(known: Path, tmp_path: Path) -> Path:
    """An empty folder of caches that knows the model, so that runs need not ask it."""
    return Path(shutil.copytree(known, tmp_path / "caches"))
