"""Run after run over one archive: what is done, what is not done again."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from batch.analysis.analyze import AnalysisSettings
from batch.archive import run
from batch.archive.workers import Workers
from batch.errors import BatchError
from batch.settings import CacheSettings, ModelSettings
from batch.video import Sampling
from cachefmt import CacheFile
from jobs import runs
from tests.archive import handlers
from tests.archive.archives import draw_video
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import catalogue
from tests.archive.indexing import remember, run_index, settings_of
from tests.cli.running import batch, objects, stamps


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def second(indexed: IndexedArchive, tmp_path: Path) -> IndexedArchive:
    """A copy of the archive and its caches, to be changed, as if it had been made there."""
    archive, out = tmp_path / "archive", tmp_path / "caches"
    shutil.copytree(indexed.archive, archive, symlinks=True)
    shutil.copytree(indexed.out, out)
    shutil.rmtree(out / "files")
    copy = replace(indexed, archive=archive, out=out)
    assert copy.run().files == []
    return copy


def test_each_content_is_done_once_under_its_first_name(indexed: IndexedArchive) -> None:
    originals = set(indexed.originals.values())
    done = [row for row in catalogue(indexed.out) if row["status"] == "done"]
    assert {row["path"] for row in done} == set(map(str, originals))
    assert len(indexed.result.stdout.splitlines()) == len(originals)
    for row in done:
        copies = [path for path, first in indexed.originals.items() if str(first) == row["path"]]
        assert row["paths"] == sorted(map(str, copies))
        assert row["video"] == digest(Path(row["path"]))
        with CacheFile.open(indexed.out / row["cache"]) as cache:
            cache.verify()
            assert cache.header.video.sha256 == row["video"]
            assert cache.size_bytes == row["cache_bytes"]


def test_every_hostile_file_is_recorded_with_its_reason_and_makes_the_exit_code_3(
    indexed: IndexedArchive,
) -> None:
    assert len(indexed.hostile) == 10
    assert indexed.result.exit_code == 3
    failed = {
        row["path"]: row["reason"] for row in catalogue(indexed.out) if row["status"] == "failed"
    }
    assert failed == {str(path): reason.value for path, reason in indexed.hostile.items()}
    for path in indexed.hostile:
        assert f"error: {path}: " in indexed.result.stderr


def test_what_is_no_video_and_is_not_called_so_is_passed_over(indexed: IndexedArchive) -> None:
    said = indexed.result.stderr + str(catalogue(indexed.out))
    for name in ("notes.txt", "cover.png", ".hidden.mp4"):
        assert name not in said


def test_a_second_run_does_nothing_and_says_the_same_of_what_failed(
    indexed: IndexedArchive,
) -> None:
    before = stamps(indexed.out)
    result = batch("index", indexed.archive, "--out", indexed.out, "--model", indexed.model)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "3 skipped, 10 failed (1 empty, 1 no_picture" in result.stderr
    assert "error" not in result.stderr
    assert stamps(indexed.out) == before


def test_no_unfinished_file_and_one_inventory_remain(indexed: IndexedArchive) -> None:
    assert [path.name for path in (indexed.out / "runs").iterdir()] == [".lock"]
    assert [path.name for path in (indexed.out / "files").iterdir()] == ["base.jsonl"]


def test_moved_renamed_copied_and_lost_videos_are_recognised(second: IndexedArchive) -> None:
    archive, out = second.archive, second.out
    before = stamps(out / "works")
    (archive / "2024").rename(archive / "1999")
    (archive / "1999" / "a.mp4").rename(archive / "1999" / "first.mp4")
    shutil.copy(archive / "2025" / "no suffix", archive / "c2.mp4")
    (archive / "2025" / "no suffix").unlink()
    (archive / "z" / "deep" / "b again.mp4").unlink()
    assert second.run().files == []
    assert stamps(out / "works") == before
    paths = {row["path"] for row in catalogue(out) if row["status"] == "done"}
    assert paths == {
        str(archive / path) for path in ("1999/first.mp4", "1999/trip/b.mkv", "c2.mp4")
    }


def test_names_that_are_no_text_are_names_too(second: IndexedArchive) -> None:
    video = second.archive / "2025" / os.fsdecode(b"\xff\n.mp4")
    (second.archive / "2025" / "no suffix").rename(video)
    (second.archive / "hostile" / "empty.mp4").rename(video.with_name(os.fsdecode(b"\xfe.mp4")))
    command = ("index", second.archive, "--out", second.out, "--model", second.model)
    for _ in range(2):
        result = batch(*command)
        assert (result.exit_code, result.stdout) == (3, "")
    paths = {row["path"] for row in catalogue(second.out)}
    assert {f"{second.archive}/2025/\ufffd\n.mp4", f"{second.archive}/2025/\ufffd.mp4"} <= paths
    assert len(objects(batch("status", second.out, "--json").stdout.splitlines())) == 1


def test_a_changed_video_is_done_again_and_its_old_content_is_kept_as_gone(
    second: IndexedArchive,
) -> None:
    changed = second.archive / "2025" / "no suffix"
    old = digest(changed)
    draw_video(changed, seed=33)
    assert len(second.run().files) == 1
    status = {row["video"]: row["status"] for row in catalogue(second.out) if row["video"]}
    assert (status[digest(changed)], status[old]) == ("done", "gone")
    assert list(status.values()).count("done") == 3


def test_other_settings_are_other_work_and_leave_the_first_alone(second: IndexedArchive) -> None:
    before = stamps(second.out / "works")
    assert len(second.run(cache=CacheSettings(positions="original")).files) == 3
    assert before.items() <= stamps(second.out / "works").items()
    assert len(list((second.out / "analyses").iterdir())) == 1
    assert (
        len(second.run(analysis=AnalysisSettings.of_profile(sampling=Sampling(rate_hz=2))).files)
        == 3
    )
    assert len(list((second.out / "analyses").iterdir())) == 2
    assert second.run().files == []


def test_an_archive_stays_in_the_dtype_of_the_machine_that_began_it(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "caches"

    def night(**flags: bool) -> set[str]:
        """What machines of these flags, which do not know the model yet, were told to run in."""
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        shutil.rmtree(out / "models", ignore_errors=True)
        remember(model, out)
        names_dtype = Workers(model=handlers.make_model_that_names_its_dtype)
        return {file.read_text() for file in run_index(archive, out, model, names_dtype).files}

    assert night(amx_bf16=True) == {"bfloat16"}
    assert night(avx512_f=True) == set()
    draw_video(archive / "new.mp4", seed=55)
    assert night(avx512_f=True) == {"bfloat16"}
    assert len(list((out / "works").iterdir())) == 1
    for dtype, works in (("bfloat16", 1), ("float32", 2)):
        chosen = ModelSettings(name=str(model), dtype=dtype)
        run_index(archive, out, model, settings=replace(settings_of(model), model=chosen))
        assert len(list((out / "works").iterdir())) == works


def test_of_machines_that_begin_an_archive_together_one_chooses_the_dtype(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's settings appear when this run holds the lock: what it found before is no matter."""
    out, elsewhere = tmp_path / "caches", tmp_path / "elsewhere"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for root, flags in ((elsewhere, {"bf16": True}), (out, {"bf16": False})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        remember(model, root)
    run_index(archive, elsewhere, model)

    @contextmanager
    def locked_late(root: Path) -> Iterator[None]:
        with runs.locked(root):
            (settings,) = elsewhere.glob("works/*/settings.json")
            theirs = root / settings.relative_to(elsewhere)
            theirs.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(settings, theirs)
            yield

    monkeypatch.setattr(run, "locked", locked_late)
    assert len(run_index(archive, out, model).files) == 3
    (work,) = (out / "works").iterdir()
    assert json.loads((work / "settings.json").read_text())["dtype"] == "bfloat16"


def test_a_cache_that_someone_removed_is_written_again(second: IndexedArchive) -> None:
    lost = next((second.out / "works").rglob("*.safetensors"))
    lost.unlink()
    assert second.run().files == [lost]


def test_files_that_look_the_same_are_read_again_only_for_rehash(second: IndexedArchive) -> None:
    """A change behind the back of size, time and inode is what the fast path cannot see."""
    video = second.archive / "2025" / "no suffix"
    stat = video.stat()
    content = bytearray(video.read_bytes())
    content[-1] ^= 1
    video.write_bytes(bytes(content))
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert second.run().files == []
    assert len(second.run(rehash=True).files) == 1
    assert digest(video) in {row["video"] for row in catalogue(second.out)}


def test_a_failed_file_is_looked_at_again_when_it_changed_or_on_demand(
    second: IndexedArchive,
) -> None:
    again = second.run(retry_failed=True)
    assert len(again.failed_files) == again.tally.failures == 10
    mended = draw_video(second.archive / "hostile" / "empty.mp4", seed=44)
    run = second.run()
    paths = [row["path"] for row in catalogue(second.out) if row["status"] == "done"]
    assert (len(run.files), run.tally.failures, str(mended) in paths) == (1, 9, True)
    assert run.failed_files == {}


def test_a_missing_archive_is_not_taken_for_an_empty_one(
    second: IndexedArchive, tmp_path: Path
) -> None:
    (second.archive / "2024").rename(tmp_path / "elsewhere")
    for folder in ("2025", "hostile", "z"):
        shutil.rmtree(second.archive / folder)
    before = stamps(second.out)
    with pytest.raises(BatchError, match=f"^{second.archive}: not one file; is it mounted"):
        second.run()
    assert stamps(second.out) == before
