"""The calibration of an archive: made once, of its first videos, by whoever comes first."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch.analysis.analyze import AnalysisSettings
from batch.answering import open_cache
from batch.archive.backlog import FIRST, Backlog
from batch.archive.calibrating import CalibrateStep
from batch.archive.inventory import FileRow, Stat, facts_of
from batch.archive.recording import Recorder
from batch.archive.request import Phase
from batch.archive.store import ProductFolder, Store
from batch.archive.tally import Tally
from batch.archive.tasks import Calibrate
from batch.archive.verifying import checks_of, remove_damaged, run_check
from batch.archive.workers import Workers
from batch.settings import CacheSettings, ModelSettings
from batch.video import Sampling, VideoInfo
from cachefmt import CacheFile
from cachefmt.calibration import Calibration, write_calibration
from jobs.disk_space import DiskSpace
from jobs.workers import Died, Finished
from tests import tiny
from tests.archive.archives import draw_video
from tests.archive.indexing import Heard, remember, run_index

OFTEN = AnalysisSettings.of_profile("none", sampling=Sampling(rate_hz=5.0))
FIVE_A_SECOND = ("--profile", "none", "--fps", "5")


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 64 cells a sample: three seconds of video are enough tokens."""
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny", image_px=112, context=4096)


@pytest.fixture(scope="module")
def indexed_once(
    large_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Heard]:
    """Archive, caches and what a first night said; not to be written to."""
    root = tmp_path_factory.mktemp("calibrated")
    (root / "archive").mkdir()
    (root / "archive" / "0.mp4").write_bytes(b"no video at all")
    for number in (1, 2, 3):
        draw_video(root / "archive" / f"{number}.mp4", seed=number)
    out = remember(large_model, root / "caches")
    heard = run_index(root / "archive", out, large_model, Workers(), analysis=OFTEN)
    return root / "archive", out, heard


@pytest.fixture
def archive_and_out(indexed_once: tuple[Path, Path, Heard], tmp_path: Path) -> tuple[Path, Path]:
    archive = Path(shutil.copytree(indexed_once[0], tmp_path / "archive"))
    return archive, Path(shutil.copytree(indexed_once[1], tmp_path / "caches"))


def calibration_in(out: Path) -> Calibration:
    (path,) = out.rglob("*.calibration.safetensors")
    assert path.parent == out
    return Calibration.open(path)


def caches_in(out: Path) -> list[Path]:
    return sorted(out.glob("works/*/caches/*/*.safetensors"))


def named_by(caches: list[Path]) -> set[str | None]:
    found = set()
    for path in caches:
        with CacheFile.open(path) as cache:
            found.add(cache.header.codec.calibration)
    return found


def test_the_first_night_makes_it_of_the_first_videos_and_all_caches_name_it(
    indexed_once: tuple[Path, Path, Heard], large_model: Path
) -> None:
    _, out, heard = indexed_once
    calibration = calibration_in(out)
    assert [video.name for video in calibration.header.videos] == ["1.mp4", "2.mp4", "3.mp4"]
    assert named_by(caches_in(out)) == {calibration.sha256}
    assert len(heard.files) == 3
    assert heard.warnings == []
    with open_cache(caches_in(out)[0], model=str(large_model)) as video:
        assert video.ask("what is the red star doing ?").text is not None
    records = [json.loads(path.read_text()) for path in out.glob("works/*/done/*/*.json")]
    assert {record["calibration"] for record in records} == {calibration.sha256}


def test_later_nights_use_the_same(archive_and_out: tuple[Path, Path], large_model: Path) -> None:
    archive, out = archive_and_out
    before = calibration_in(out).sha256
    draw_video(archive / "00 new.mp4", seed=9)
    heard = run_index(archive, out, large_model, Workers(), analysis=OFTEN)
    assert len(heard.files) == 1
    assert calibration_in(out).sha256 == before
    assert named_by(heard.files) == {before}


def test_a_calibration_that_is_gone_is_missed_every_night(
    archive_and_out: tuple[Path, Path], large_model: Path
) -> None:
    archive, out = archive_and_out
    path = calibration_in(out).path
    path.rename(path.with_name("moved"))
    for _ in range(2):
        heard = run_index(archive, out, large_model, analysis=OFTEN)
        (warning,) = heard.warnings
        assert "which is not here as it was: they cannot be read" in warning
    for check in checks_of(out):
        found = run_check(check)
        assert "needs the calibration" in str(found.problems[0])
        assert remove_damaged(check, found) == []
    moved = path.with_name("moved")
    lost = Calibration.open(moved)
    since = replace(lost.header, tool="another version")
    write_calibration(path, since, lost._arrays)  # one made since
    assert len(run_index(archive, out, large_model, analysis=OFTEN).warnings) == 1
    moved.rename(path.with_name("tiny2.calibration.safetensors"))
    assert run_index(archive, out, large_model, analysis=OFTEN).warnings == []


def test_of_too_little_or_for_lossless_caches_none_is_made(
    archive_and_out: tuple[Path, Path], large_model: Path
) -> None:
    archive, _ = archive_and_out
    for number in (2, 3):
        (archive / f"{number}.mp4").unlink()
    out = remember(large_model, archive.parent / "little")
    seldom = AnalysisSettings.of_profile("none")
    heard = run_index(archive, out, large_model, Workers(), analysis=seldom)
    assert len(heard.files) == 1
    lossless = CacheSettings(quality="lossless")
    run_index(archive, out, large_model, Workers(), analysis=OFTEN, cache=lossless)
    assert list(out.rglob("*.calibration.safetensors")) == []
    assert named_by(caches_in(out)) == {None}


@pytest.mark.long
def test_two_tasks_of_a_cluster_that_begin_at_once_use_one(
    archive_and_out: tuple[Path, Path], large_model: Path, tmp_path: Path
) -> None:
    archive, _ = archive_and_out
    for number in range(4, 9):
        draw_video(archive / f"{number}.mp4", seed=number)
    out = remember(large_model, tmp_path / "shared")
    command = [sys.executable, "-m", "batch", "index", archive, "--out", out, *FIVE_A_SECOND]
    command += ["--model", large_model, "--dtype", "float32"]
    for phase in ("identify", "analyze"):
        run([*command, "--phase", phase])
    tasks = [
        subprocess.Popen([*map(str, command), "--phase", "prefill", "--shard", f"{number}/2"])
        for number in range(2)
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert len(caches_in(out)) == 8
    assert named_by(caches_in(out)) == {calibration_in(out).sha256}
    assert [path.name for path in (out / "runs").iterdir() if path.is_dir()] == []


def run(command: list[Any]) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr


class Calibrating:
    """The step, with videos whose analysis is made up."""

    def __init__(self, root: Path, model: Path, videos: int) -> None:
        self.folder, self.heard = root, Heard()
        (root / "staging").mkdir(parents=True)
        manifests, caches = Store(root).manifests("a"), Store(root).caches("w")
        self.backlog = Backlog(Phase.ALL, manifests, caches, retry_failed=False, tally=Tally())
        self.rows = [row_of(f"{number:02}") for number in range(videos)]
        self.step = CalibrateStep(
            folder=root,
            model=facts_of_model(model),
            manifests=manifests,
            caches=caches,
            backlog=self.backlog,
            recorder=Recorder(root / "staging", DiskSpace(root, None), Tally(), self.heard, ""),
        )
        self.manifests: ProductFolder = manifests
        for row in self.rows:
            self.backlog.admit(row)

    def analyze(self, *numbers: int) -> None:
        for number in numbers:
            self.backlog.to_analyze.remove(self.rows[number])
            self.backlog.pass_on(self.rows[number])

    def next(self, *, comes_more: bool = False) -> Calibrate | None:
        analysing = {row.video for row in self.backlog.to_analyze}
        return self.step.next(analysing, comes_more=comes_more)

    def paths(self, *numbers: int) -> tuple[Path, ...]:
        return tuple(self.manifests.product(self.rows[number].video) for number in numbers)


def row_of(name: str) -> FileRow:
    info = VideoInfo(
        path=Path(f"{name}.mp4"),
        sha256=name * 32,
        size_bytes=1,
        codec="none",
        width_px=1,
        height_px=1,
        shown_width_px=1,
        shown_height_px=1,
        duration_s=1.0,
        span_s=1.0,
        caveat=None,
    )
    return FileRow(path=f"{name}.mp4", stat=Stat(1, 1, 1), kind="video", facts=facts_of(info))


def facts_of_model(model: Path) -> Any:
    from batch.archive.identity import IndexSettings
    from batch.archive.prefilling import describe
    from batch.archive.tasks import Describe

    settings = IndexSettings(
        model=ModelSettings(name=str(model)), analysis=OFTEN, cache=CacheSettings()
    )
    return describe(Describe(settings=settings, device="cpu", weights=True))


def test_it_waits_for_the_first_videos_whichever_is_analysed_first(
    tmp_path: Path, model: Path
) -> None:
    made = Calibrating(tmp_path / "out", model, videos=FIRST + 2)
    made.analyze(FIRST, 3, 0)
    assert made.next() is None
    made.analyze(*(number for number in range(FIRST) if number not in (0, 3)))
    task = made.next(comes_more=True)
    assert task is not None
    assert task.manifests == made.paths(*range(FIRST))
    assert made.next() is None
    assert not made.step.is_settled
    made.step.ended(Finished(task=task, value=None))
    assert made.step.is_settled
    assert made.heard.warnings == []


def test_as_long_as_files_are_looked_at_few_videos_are_not_all(tmp_path: Path, model: Path) -> None:
    made = Calibrating(tmp_path / "out", model, videos=2)
    made.analyze(1)
    made.backlog.to_analyze.clear()  # the other one failed
    assert made.next(comes_more=True) is None
    task = made.next(comes_more=False)
    assert task is not None
    assert task.manifests == made.paths(1)


def test_without_any_video_or_if_its_process_dies_the_run_goes_on(
    tmp_path: Path, model: Path
) -> None:
    nothing = Calibrating(tmp_path / "nothing", model, videos=1)
    nothing.backlog.to_analyze.clear()
    assert nothing.next() is None
    assert nothing.step.is_settled
    dying = Calibrating(tmp_path / "dying", model, videos=1)
    dying.analyze(0)
    dying.step.ended(Died(task=dying.next(), signal=None))
    assert dying.step.is_settled
    (warning,) = dying.heard.warnings
    assert "no calibration could be made" in warning
