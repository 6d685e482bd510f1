"""The same questions to every video of an archive."""

from pathlib import Path

import pytest

from batch.archive.store import Store
from batch.serving import library
from jobs.runs import Run
from tests import clips
from tests.archive.conftest import IndexedArchive
from tests.cli.running import batch, objects, succeed


def test_an_archive_answers_with_a_line_for_each_video(indexed: IndexedArchive) -> None:
    asked = ("-q", "what is the red star ?", "-q", "a b", "--max-new-tokens", 3)
    lines = objects(succeed("answer", indexed.out, *asked))
    assert [line["path"] for line in lines] == sorted(map(str, set(indexed.originals.values())))
    for line in lines:
        alone = ("answer", indexed.out / line["cache"], "--json", *asked)
        assert [reply["answer"] for reply in line["answers"]] == [
            one["answer"] for one in objects(succeed(*alone))
        ]


def test_questions_go_to_videos_whose_path_fits(indexed: IndexedArchive) -> None:
    command = ("answer", indexed.out, "-q", "a ?", "--max-new-tokens", 1)
    assert [line["path"] for line in objects(succeed(*command, "--match", "*/z/*"))] == [
        str(indexed.archive / "2024" / "trip" / "b.mkv")
    ]
    assert len(succeed(*command, "--match", "*.mkv", "--match", "*suffix")) == 2


def test_patterns_that_fit_no_video_are_named_before_the_model_is_loaded(
    indexed: IndexedArchive, tmp_path: Path
) -> None:
    command = ("answer", indexed.out, "-q", "a ?", "--model", tmp_path / "none")
    result = batch(*command, "--match", "*.none", "--match", "b.mkv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {indexed.out}: of 3 videos that are done in work " in result.stderr
    assert "fits --match '*.none' --match 'b.mkv'; " in result.stderr


def test_a_work_of_which_no_video_is_done_is_named(copied_out: Path) -> None:
    (caches,) = Store(copied_out).all_caches()
    for video in caches.finished():
        caches.product(video).unlink()
    result = batch("answer", copied_out, "-q", "a ?")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{copied_out}: no video of work {caches.id} is done; batch index" in result.stderr


def test_a_server_stays_with_the_work_whose_model_it_loaded(
    copied_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_LOOK_EVERY_S", 0.0)
    served = library.Library(copied_out)
    before = list(served)
    (caches,) = Store(copied_out).all_caches()
    other = caches.folder.with_name("f" * 16)
    other.mkdir()
    (other / "settings.json").write_bytes((caches.folder / "settings.json").read_bytes())
    served.refresh()
    assert list(served) == before


def test_a_damaged_cache_is_an_error_of_its_video(copied_out: Path) -> None:
    cache = min(copied_out.rglob("*.safetensors"))
    clips.truncate(cache, keep=0.9)
    result = batch("answer", copied_out, "-q", "a ?", "--max-new-tokens", 1)
    lines = objects(result.stdout.splitlines())
    assert result.exit_code == 3
    assert [line["video"] for line in lines if "error" in line] == [cache.stem]
    assert len([line for line in lines if "answers" in line]) == 2
    assert f"error: {cache}: is truncated" in result.stderr


def test_a_folder_without_caches_and_an_unknown_work_are_named(
    indexed: IndexedArchive, tmp_path: Path
) -> None:
    with Run.begin(tmp_path, {}):
        result = batch("answer", tmp_path, "-q", "a ?")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {tmp_path}: no caches here" in result.stderr
    result = batch("answer", indexed.out, "-q", "a ?", "--work", "f00")
    assert f"error: {indexed.out}: no work f00 here" in result.stderr
