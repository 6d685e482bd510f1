"""What goes wrong with one video costs that video, and what goes wrong with the run stops it."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from batch.analysis.manifest import Manifest
from batch.archive.request import Phase
from batch.archive.workers import Workers
from batch.errors import BatchError, ManifestError, ModelError, Reason
from batch.making.plan import ROOM_FOR_ANSWER
from cachefmt import CacheFile
from jobs.errors import NoSpaceError
from jobs.workers import MakeHandler
from tests import clips, tiny
from tests.archive import handlers
from tests.archive.archives import draw_video
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import catalogue, status_by_name
from tests.archive.indexing import LIGHT, remember, run_index
from tests.cli.running import batch

PATIENCE_S = 3.0


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        (replace(LIGHT, video=handlers.make_probe_that_crashes), Reason.WORKER_CRASHED),
        (replace(LIGHT, video=handlers.make_analysis_that_is_killed), Reason.WORKER_KILLED),
        (replace(LIGHT, model=handlers.make_model_that_crashes), Reason.WORKER_CRASHED),
        (replace(LIGHT, video=handlers.make_probe_that_hangs), Reason.WORKER_STUCK),
        (replace(LIGHT, video=handlers.make_decoder_that_hangs), Reason.WORKER_STUCK),
        (replace(LIGHT, model=handlers.make_model_that_hangs), Reason.WORKER_STUCK),
    ],
)
def test_a_process_that_dies_or_hangs_costs_its_video_only(
    archive: Path, model: Path, fresh_out: Path, workers: Workers, reason: Reason
) -> None:
    if reason is Reason.WORKER_STUCK:
        workers = replace(workers, stuck_video_s=PATIENCE_S, stuck_model_s=PATIENCE_S)
    run = run_index(archive, fresh_out, model, workers)
    status = status_by_name(fresh_out)
    assert status["b.mkv"] == ("failed", reason.value)
    assert status["a.mp4"] == status["no suffix"] == ("done", None)
    assert run.tally.failures == 1
    (message,) = run.failed_files.values()
    assert list(run.failed_files) == [f"{archive}/2024/trip/b.mkv"]
    if reason is Reason.WORKER_STUCK:
        assert f"made no progress for {PATIENCE_S:.0f} s and was killed" in message
    assert [path.name for path in (fresh_out / "runs").iterdir()] == [".lock"]


def test_a_video_whose_frames_keep_coming_may_take_longer_than_a_stuck_one(
    archive: Path, model: Path, fresh_out: Path
) -> None:
    slow = handlers.make_decoder_that_takes_its_time
    workers = replace(LIGHT, video=slow, stuck_video_s=PATIENCE_S)
    run = run_index(archive, fresh_out, model, workers, jobs=3)
    assert (run.tally.failures, len(run.files)) == (0, 3)
    assert all(row["analyze_seconds"] > PATIENCE_S + 1 for row in catalogue(fresh_out))


def test_a_model_that_dies_while_others_wait_for_it_costs_its_video_only(
    archive: Path, model: Path, fresh_out: Path
) -> None:
    for phase in (Phase.IDENTIFY, Phase.ANALYZE):
        assert run_index(archive, fresh_out, model, phase=phase).tally.failures == 0
    workers = replace(LIGHT, model=handlers.make_model_that_crashes)
    run_index(archive, fresh_out, model, workers, phase=Phase.PREFILL)
    status = status_by_name(fresh_out)
    assert status["b.mkv"] == ("failed", Reason.WORKER_CRASHED.value)
    assert status["a.mp4"] == status["no suffix"] == ("done", None)


def test_what_failed_is_left_alone_until_a_person_asks_for_it(
    archive: Path, model: Path, fresh_out: Path
) -> None:
    killed = replace(LIGHT, video=handlers.make_analysis_that_is_killed)
    run_index(archive, fresh_out, model, killed)
    again = run_index(archive, fresh_out, model)
    assert (again.files, again.tally.skipped) == ([], 2)
    assert again.tally.by_reason == {Reason.WORKER_KILLED: 1}
    assert run_index(archive, fresh_out, model, retry_failed=True).tally.failures == 0
    assert set(status_by_name(fresh_out).values()) == {("done", None)}


@pytest.mark.parametrize(
    ("handler", "failures"),
    [
        (handlers.make_probe_that_cannot_read, 1),
        (handlers.make_analysis_that_cannot_read, 1),
        (handlers.make_analysis_whose_file_vanishes, 0),
    ],
)
def test_a_file_that_was_out_of_reach_is_done_by_the_next_run_though_it_did_not_change(
    archive: Path, model: Path, fresh_out: Path, handler: MakeHandler, failures: int
) -> None:
    victim = archive / "2024" / "trip" / "b.mkv"
    (archive / "z" / "deep" / "b again.mp4").unlink()
    os.link(victim, archive.parent / "kept")
    run = run_index(archive, fresh_out, model, replace(LIGHT, video=handler))
    assert (run.tally.failures, len(run.files)) == (failures, 2)
    if not victim.exists():
        os.link(archive.parent / "kept", victim)
    assert len(run_index(archive, fresh_out, model).files) == 1
    assert set(status_by_name(fresh_out).values()) == {("done", None)}


def test_a_disk_that_is_full_while_a_video_is_analysed_stops_the_run_and_fails_no_video(
    archive: Path, model: Path, fresh_out: Path
) -> None:
    workers = replace(LIGHT, video=handlers.make_analysis_on_a_full_disk)
    with pytest.raises(NoSpaceError, match="No space left on device"):
        run_index(archive, fresh_out, model, workers)
    assert {status for status, _ in status_by_name(fresh_out).values()} == {"pending"}


def test_nobody_waits_for_a_model_that_has_nothing_to_do(
    model: Path, tmp_path: Path, fresh_out: Path
) -> None:
    workers = Workers(
        video=handlers.make_analysis_that_is_killed, model=handlers.make_model_that_loads_for_long
    )
    draw_video(tmp_path / "archive" / "b.mkv", seed=1)
    began_s = time.monotonic()
    run = run_index(tmp_path / "archive", fresh_out, model, workers)
    assert run.tally.failures == 1
    assert time.monotonic() - began_s < handlers.LOADING_S


def test_out_of_memory_gives_smaller_blocks_which_are_recorded_and_count_as_done(
    indexed: IndexedArchive, fresh_out: Path
) -> None:
    little = Workers(model=handlers.make_model_with_little_memory)
    assert len(run_index(indexed.archive, fresh_out, indexed.model, little).files) == 2
    assert {row["block_samples"] for row in catalogue(fresh_out)} == {2, None}
    for cache in fresh_out.rglob("*.safetensors"):
        with CacheFile.open(cache) as opened:
            opened.verify()
            assert opened.header.policy.parameters["block_samples"] == 2
    assert status_by_name(fresh_out)["b.mkv"] == ("failed", Reason.OUT_OF_MEMORY.value)
    assert run_index(indexed.archive, fresh_out, indexed.model).files == []


def test_a_video_of_which_no_sample_fits_the_context_is_recorded(tmp_path: Path) -> None:
    small = tiny.llava_next(tmp_path / "small", context=ROOM_FOR_ANSWER + 3)
    draw_video(tmp_path / "archive" / "short.mp4", seed=1, seconds=2)
    out = remember(small, tmp_path / "caches")
    assert run_index(tmp_path / "archive", out, small, Workers()).tally.failures == 1
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


def test_a_damaged_manifest_is_made_again(
    indexed: IndexedArchive, fresh_out: Path, damaged: Path
) -> None:
    (out,) = run_index(indexed.archive, fresh_out, indexed.model).files
    assert out.stem == damaged.stem
    assert Manifest.read(damaged).video.sha256 == damaged.stem


def test_a_damaged_manifest_is_made_again_by_the_next_task_that_analyses(
    indexed: IndexedArchive, fresh_out: Path, damaged: Path
) -> None:
    run = run_index(indexed.archive, fresh_out, indexed.model, phase=Phase.PREFILL)
    (message,) = run.failed_files.values()
    assert (run.tally.failures, run.files) == (1, [])
    assert "it is removed, to be made again" in message
    analyzed = run_index(indexed.archive, fresh_out, indexed.model, phase=Phase.ANALYZE)
    assert analyzed.files == [damaged]
    prefilled = run_index(indexed.archive, fresh_out, indexed.model, phase=Phase.PREFILL)
    assert len(prefilled.files) == 1


def test_a_video_with_a_hole_is_done_with_a_warning(
    model: Path, fresh_out: Path, tmp_path: Path
) -> None:
    video = draw_video(tmp_path / "archive" / "hole.mp4", seed=5, seconds=12)
    clips.damage(video, start=0.5, size_bytes=400)
    run = run_index(tmp_path / "archive", fresh_out, model)
    (warning,) = run.warnings
    assert warning.startswith(f"{video}: hole.mp4: ")
    (row,) = catalogue(fresh_out)
    assert row["status"] == "done"
    assert "broken frames" in row["warning"]


def test_a_model_that_fails_again_and_again_stops_the_run(
    model: Path, tmp_path: Path, fresh_out: Path
) -> None:
    for number in range(4):
        draw_video(tmp_path / "archive" / str(number) / "b.mkv", seed=number, seconds=2)
    workers = Workers(model=handlers.make_model_that_crashes, failures_in_a_row=2)
    with pytest.raises(BatchError, match="2 videos in a row failed in prefill"):
        run_index(tmp_path / "archive", fresh_out, model, workers)
    assert [row["status"] for row in catalogue(fresh_out)].count("failed") == 2


@pytest.mark.parametrize("phase", ["all", "analyze"])
def test_a_model_that_cannot_be_opened_stops_the_run_at_once(
    archive: Path, tmp_path: Path, phase: str
) -> None:
    (tmp_path / "model").mkdir()
    out = tmp_path / "caches"
    command = ("index", archive, "--out", out, "--model", "demo", "--phase", phase)
    result = batch(*command, "--model", tmp_path / "model")
    assert result.exit_code == 2
    assert f"Invalid value for '--model': {tmp_path / 'model'}: " in result.stderr


def test_weights_that_are_missing_stop_the_run_and_fail_no_video(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    clips.truncate(broken / "model.safetensors", keep=0.9)
    out = remember(broken, tmp_path / "caches")
    with pytest.raises(ModelError, match=f"^{broken}: the weights cannot be loaded"):
        run_index(archive, out, broken, Workers())
    assert {row["status"] for row in catalogue(out)} <= {"pending", "analyzed"}


def test_a_quota_stops_the_run_with_nothing_half_and_more_room_completes_it(
    indexed: IndexedArchive, fresh_out: Path
) -> None:
    def products() -> list[Path]:
        caches = fresh_out.rglob("*.safetensors")
        return [*caches, *(fresh_out / "analyses").rglob("*.parquet")]

    manifests = (indexed.out / "analyses").rglob("*.parquet")
    most = sum(path.stat().st_size for path in manifests) + 3 * handlers.CACHE_BYTES
    with pytest.raises(NoSpaceError, match=f"^{fresh_out}: --max-bytes is reached: "):
        run_index(indexed.archive, fresh_out, indexed.model, max_bytes=most)
    assert 0 < sum(path.stat().st_size for path in products()) < most
    assert [path.name for path in (fresh_out / "runs").iterdir()] == [".lock"]
    more = run_index(indexed.archive, fresh_out, indexed.model, max_bytes=9 * most)
    assert more.tally.done + more.tally.skipped == 3
    assert len(products()) == 6
    assert {path.stat().st_size for path in products() if path.suffix == ".safetensors"} == {
        handlers.CACHE_BYTES
    }
