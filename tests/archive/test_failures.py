"""What goes wrong with one video costs that video, and what goes wrong with the run stops it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.archive import discovery, index, steps
from batch.errors import Reason
from batch.prefill.plan import ROOM_FOR_ANSWER
from cachefmt import CacheFile
from tests import clips, tiny
from tests.archive import faulty
from tests.archive.archives import draw_archive, draw_video
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import catalogue, contents
from tests.cli.running import batch

MakeHandler = Callable[..., Callable[[Any], Any]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    draw_archive(tmp_path / "archive")
    return tmp_path / "archive"


def status_by_name(out: Path) -> dict[str, tuple[str, str | None]]:
    return {Path(row["path"]).name: (row["status"], row["reason"]) for row in catalogue(out)}


@pytest.mark.parametrize(
    ("opening", "handler", "reason"),
    [
        ("make_video_handler", faulty.make_probe_that_crashes, Reason.WORKER_CRASHED),
        ("make_video_handler", faulty.make_analysis_that_is_killed, Reason.WORKER_KILLED),
        ("make_model_handler", faulty.make_model_that_crashes, Reason.WORKER_CRASHED),
        ("make_model_handler", faulty.make_model_without_memory, Reason.OUT_OF_MEMORY),
    ],
)
def test_a_process_that_dies_or_starves_costs_its_video_only(
    archive: Path,
    model: Path,
    fresh_out: Path,
    monkeypatch: pytest.MonkeyPatch,
    opening: str,
    handler: MakeHandler,
    reason: Reason,
) -> None:
    monkeypatch.setattr(index, opening, handler)
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


def test_out_of_memory_gives_smaller_blocks_which_are_recorded_and_count_as_done(
    indexed: IndexedArchive, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model)
    with monkeypatch.context() as patch:
        patch.setattr(index, "make_model_handler", faulty.make_model_with_little_memory)
        assert len(batch(*command).stdout.splitlines()) == 3
    assert {row["block_samples"] for row in catalogue(fresh_out)} == {2, None}
    for cache in fresh_out.rglob("*.safetensors"):
        with CacheFile.open(cache) as opened:
            opened.verify()
            assert opened.header.policy.parameters["block_samples"] == 2
    assert batch(*command).stdout == ""


def test_a_video_of_which_no_sample_fits_the_context_is_recorded(tmp_path: Path) -> None:
    small = tiny.llava_next(tmp_path / "small", context=ROOM_FOR_ANSWER + 3)
    draw_video(tmp_path / "archive" / "short.mp4", seed=1, seconds=2)
    out = tmp_path / "caches"
    assert batch("index", tmp_path / "archive", "--out", out, "--model", small).exit_code == 3
    assert status_by_name(out) == {"short.mp4": ("failed", Reason.TOO_LONG)}


def test_a_damaged_manifest_is_made_again(indexed: IndexedArchive, tmp_path: Path) -> None:
    out = tmp_path / "caches"
    shutil.copytree(indexed.out, out)
    command = ("index", indexed.archive, "--out", out, "--model", indexed.model)
    before = contents(out)
    manifest = next((out / "analyses").rglob("*.parquet"))
    cache = next((out / "works").rglob(f"{manifest.stem}.safetensors"))
    clips.damage(manifest, start=0.5, size_bytes=64)
    cache.unlink()
    assert batch(*command).stdout.splitlines() == [str(cache)]
    assert contents(out) == before


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


@pytest.mark.parametrize("phase", ["all", "analyze", "prefill"])
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
    out = tmp_path / "caches"
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


def test_a_quota_stops_the_run_with_nothing_half_and_more_room_completes_it(
    indexed: IndexedArchive, fresh_out: Path
) -> None:
    def products(out: Path) -> int:
        found = [*out.rglob("*.safetensors"), *(out / "analyses").rglob("*.parquet")]
        return sum(path.stat().st_size for path in found)

    out, most = fresh_out, products(indexed.out)
    command = ("index", indexed.archive, "--out", out, "--model", indexed.model, "--max-bytes")
    result = batch(*command, most)
    assert result.exit_code == 1
    assert f"error: {out}: --max-bytes is reached: " in result.stderr
    assert 0 < products(out) < most
    assert [path.name for path in (out / "runs").iterdir()] == [".lock"]
    assert batch(*command, 2 * most).exit_code == 3
    assert contents(out) == contents(indexed.out)
