"""What goes wrong with one video costs that video, and what goes wrong with the run stops it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.analysis.manifest import Manifest
from batch.archive import discovery, index, steps
from batch.errors import ManifestError, Reason
from batch.making.plan import ROOM_FOR_ANSWER
from cachefmt import CacheFile
from tests import clips, tiny
from tests.archive import faulty
from tests.archive.archives import draw_video
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import catalogue, contents, status_by_name
from tests.archive.known import remember
from tests.archive.light import CACHE_BYTES, LOADING_S, make_model_handler_that_loads_for_long
from tests.cli.running import batch

MakeHandler = Callable[..., Callable[[Any], Any]]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("making", "handler", "reason"),
    [
        ("make_video_handler", faulty.make_probe_that_crashes, Reason.WORKER_CRASHED),
        ("make_video_handler", faulty.make_analysis_that_is_killed, Reason.WORKER_KILLED),
        ("make_model_handler", faulty.make_model_that_crashes, Reason.WORKER_CRASHED),
    ],
)
def test_a_process_that_dies_costs_its_video_only(
    archive: Path,
    model: Path,
    fresh_out: Path,
    monkeypatch: pytest.MonkeyPatch,
    making: str,
    handler: MakeHandler,
    reason: Reason,
) -> None:
    monkeypatch.setattr(index, making, handler)
    result = batch("index", archive, "--out", fresh_out, "--model", model)
    status = status_by_name(fresh_out)
    assert result.exit_code == 3
    assert status["b.mkv"] == ("failed", reason.value)
    assert status["a.mp4"] == status["no suffix"] == ("done", None)
    assert f"error: {archive}/2024/trip/b.mkv: " in result.stderr
    assert [path.name for path in (fresh_out / "runs").iterdir()] == [".lock"]


def test_a_model_that_dies_while_others_wait_for_it_costs_its_video_only(
    archive: Path, model: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("index", archive, "--out", fresh_out, "--model", model, "--phase")
    for phase in ("identify", "analyze"):
        assert batch(*command, phase).exit_code == 0
    monkeypatch.setattr(index, "make_model_handler", faulty.make_model_that_crashes)
    batch(*command, "prefill")
    status = status_by_name(fresh_out)
    assert status["b.mkv"] == ("failed", Reason.WORKER_CRASHED.value)
    assert status["a.mp4"] == status["no suffix"] == ("done", None)


@pytest.mark.usefixtures("light")
def test_what_failed_is_left_alone_until_a_person_asks_for_it(
    archive: Path, model: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("index", archive, "--out", fresh_out, "--model", model)
    with monkeypatch.context() as patch:
        patch.setattr(index, "make_video_handler", faulty.make_analysis_that_is_killed)
        batch(*command)
    result = batch(*command)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "2 skipped, 1 failed (1 worker_killed)" in result.stderr
    assert batch(*command, "--retry-failed").exit_code == 0
    assert set(status_by_name(fresh_out).values()) == {("done", None)}


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (faulty.make_probe_that_cannot_read, 3),
        (faulty.make_analysis_that_cannot_read, 3),
        (faulty.make_analysis_whose_file_vanishes, 0),
    ],
)
def test_a_file_that_was_out_of_reach_is_done_by_the_next_run_though_it_did_not_change(
    archive: Path,
    model: Path,
    fresh_out: Path,
    monkeypatch: pytest.MonkeyPatch,
    handler: MakeHandler,
    code: int,
) -> None:
    victim = archive / "2024" / "trip" / "b.mkv"
    (archive / "z" / "deep" / "b again.mp4").unlink()
    os.link(victim, archive.parent / "kept")
    command = ("index", archive, "--out", fresh_out, "--model", model)
    with monkeypatch.context() as patch:
        patch.setattr(index, "make_video_handler", handler)
        result = batch(*command)
    assert (result.exit_code, len(result.stdout.splitlines())) == (code, 2)
    if not victim.exists():
        os.link(archive.parent / "kept", victim)
    assert len(batch(*command).stdout.splitlines()) == 1
    assert set(status_by_name(fresh_out).values()) == {("done", None)}


@pytest.mark.usefixtures("light")
def test_a_disk_that_is_full_while_a_video_is_analysed_stops_the_run_and_fails_no_video(
    archive: Path, model: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "make_video_handler", faulty.make_analysis_on_a_full_disk)
    result = batch("index", archive, "--out", fresh_out, "--model", model)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert {status for status, _ in status_by_name(fresh_out).values()} == {"pending"}


def test_nobody_waits_for_a_model_that_has_nothing_to_do(
    model: Path, tmp_path: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "make_model_handler", make_model_handler_that_loads_for_long)
    monkeypatch.setattr(index, "make_video_handler", faulty.make_analysis_that_is_killed)
    draw_video(tmp_path / "archive" / "b.mkv", seed=1)
    began_s = time.monotonic()
    result = batch("index", tmp_path / "archive", "--out", fresh_out, "--model", model)
    assert result.exit_code == 3
    assert time.monotonic() - began_s < LOADING_S


def test_out_of_memory_gives_smaller_blocks_which_are_recorded_and_count_as_done(
    indexed: IndexedArchive, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model)
    with monkeypatch.context() as patch:
        patch.setattr(index, "make_model_handler", faulty.make_model_with_little_memory)
        assert len(batch(*command).stdout.splitlines()) == 2
    assert {row["block_samples"] for row in catalogue(fresh_out)} == {2, None}
    for cache in fresh_out.rglob("*.safetensors"):
        with CacheFile.open(cache) as opened:
            opened.verify()
            assert opened.header.policy.parameters["block_samples"] == 2
    assert status_by_name(fresh_out)["b.mkv"] == ("failed", Reason.OUT_OF_MEMORY.value)
    assert batch(*command).stdout == ""


def test_a_video_of_which_no_sample_fits_the_context_is_recorded(tmp_path: Path) -> None:
    small = tiny.llava_next(tmp_path / "small", context=ROOM_FOR_ANSWER + 3)
    draw_video(tmp_path / "archive" / "short.mp4", seed=1, seconds=2)
    out = remember(small, tmp_path / "caches")
    assert batch("index", tmp_path / "archive", "--out", out, "--model", small).exit_code == 3
    assert status_by_name(out) == {"short.mp4": ("failed", Reason.TOO_LONG)}


@pytest.fixture
def damaged(indexed: IndexedArchive, fresh_out: Path) -> Path:
    """A manifest that cannot be read, of a video whose cache is lost."""
    shutil.copytree(indexed.out, fresh_out, dirs_exist_ok=True)
    manifest = next((fresh_out / "analyses").rglob("*.parquet"))
    next((fresh_out / "works").rglob(f"{manifest.stem}.safetensors")).unlink()
    clips.truncate(manifest, keep=0.9)
    with pytest.raises(ManifestError):
        Manifest.read(manifest)
    return manifest


@pytest.mark.usefixtures("light")
def test_a_damaged_manifest_is_made_again(
    indexed: IndexedArchive, fresh_out: Path, damaged: Path
) -> None:
    (out,) = batch(
        "index", indexed.archive, "--out", fresh_out, "--model", indexed.model
    ).stdout.splitlines()
    assert Path(out).stem == damaged.stem
    assert Manifest.read(damaged).video.sha256 == damaged.stem


@pytest.mark.usefixtures("light")
def test_a_damaged_manifest_is_made_again_by_the_next_task_that_analyses(
    indexed: IndexedArchive, fresh_out: Path, damaged: Path
) -> None:
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model, "--phase")
    result = batch(*command, "prefill")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "it is removed, to be made again" in result.stderr
    assert batch(*command, "analyze").stdout.splitlines() == [str(damaged)]
    assert len(batch(*command, "prefill").stdout.splitlines()) == 1


@pytest.mark.usefixtures("light")
def test_a_video_with_a_hole_is_done_with_a_warning(
    model: Path, fresh_out: Path, tmp_path: Path
) -> None:
    video = draw_video(tmp_path / "archive" / "hole.mp4", seed=5, seconds=12)
    clips.damage(video, start=0.5, size_bytes=400)
    result = batch("index", tmp_path / "archive", "--out", fresh_out, "--model", model)
    assert result.exit_code == 0
    assert f"warning: {video}: hole.mp4: " in result.stderr
    (row,) = catalogue(fresh_out)
    assert row["status"] == "done"
    assert "broken frames" in row["warning"]


def test_a_model_that_fails_again_and_again_stops_the_run(
    model: Path, tmp_path: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "make_model_handler", faulty.make_model_that_crashes)
    monkeypatch.setattr(steps, "IN_A_ROW", 2)
    for number in range(4):
        draw_video(tmp_path / "archive" / str(number) / "b.mkv", seed=number, seconds=2)
    result = batch("index", tmp_path / "archive", "--out", fresh_out, "--model", model)
    assert result.exit_code == 1
    assert "2 videos in a row failed in prefill" in result.stderr
    assert [row["status"] for row in catalogue(fresh_out)].count("failed") == 2


@pytest.mark.parametrize("phase", ["all", "analyze"])
def test_a_model_that_cannot_be_opened_stops_the_run_at_once(
    archive: Path, tmp_path: Path, phase: str
) -> None:
    (tmp_path / "model").mkdir()
    out = tmp_path / "caches"
    command = ("index", archive, "--out", out, "--phase", phase)
    result = batch(*command, "--model", tmp_path / "model")
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'model'}: " in result.stderr


def test_weights_that_are_missing_stop_the_run_and_fail_no_video(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    clips.truncate(tmp_path / "model" / "model.safetensors", keep=0.9)
    out = remember(tmp_path / "model", tmp_path / "caches")
    result = batch("index", archive, "--out", out, "--model", tmp_path / "model")
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'model'}: the weights cannot be loaded" in result.stderr
    assert {row["status"] for row in catalogue(out)} <= {"pending", "analyzed"}


def test_a_folder_that_cannot_be_read_fails_and_what_was_known_of_it_stands(
    archive: Path, fresh_out: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("index", archive, "--out", fresh_out, "--model", model, "--phase", "identify")
    batch(*command)
    before = contents(fresh_out)
    scandir = discovery.os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("2025"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(discovery.os, "scandir", refusing)
    result = batch(*command)
    assert result.exit_code == 3
    assert f"error: {archive}/2025: this folder cannot be read" in result.stderr
    assert contents(fresh_out) == before


@pytest.mark.usefixtures("light")
def test_a_quota_stops_the_run_with_nothing_half_and_more_room_completes_it(
    indexed: IndexedArchive, fresh_out: Path
) -> None:
    def products() -> list[Path]:
        caches = fresh_out.rglob("*.safetensors")
        return [*caches, *(fresh_out / "analyses").rglob("*.parquet")]

    manifests = (indexed.out / "analyses").rglob("*.parquet")
    most = sum(path.stat().st_size for path in manifests) + 3 * CACHE_BYTES
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model)
    result = batch(*command, "--max-bytes", most)
    assert result.exit_code == 1
    assert f"error: {fresh_out}: --max-bytes is reached: " in result.stderr
    assert 0 < sum(path.stat().st_size for path in products()) < most
    assert [path.name for path in (fresh_out / "runs").iterdir()] == [".lock"]
    assert batch(*command, "--max-bytes", 9 * most).exit_code == 3
    assert len(products()) == 6
    assert {path.stat().st_size for path in products() if path.suffix == ".safetensors"} == {
        CACHE_BYTES
    }
