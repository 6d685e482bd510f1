"""`batch analyze`: what it prints, writes, skips and refuses."""

import os
import shutil
from pathlib import Path

import pytest

from batch.analysis.manifest import Manifest
from batch.making import manifests
from jobs.errors import NoSpaceError
from jobs.workers import Handler, Progress
from tests import clips
from tests.cli.running import batch, objects, stamps, succeed


def test_each_video_becomes_a_manifest_whose_path_is_the_only_result(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    result = batch("analyze", clip, "--out", tmp_path / "new" / "folder", "--model", model)
    target = tmp_path / "new" / "folder" / "clip.parquet"
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert result.stderr.startswith(f"1 done; {target.stat().st_size:,} bytes, ")
    assert Manifest.read(target).kept.tolist() == [True, True, True, False]


def test_json_lines_have_stable_keys(model: Path, clip: Path, tmp_path: Path) -> None:
    lines = succeed("analyze", clip, "--out", tmp_path, "--model", model, "--json")
    (found,) = objects(lines)
    keys = "manifest video skipped samples stored_samples broken_frames tiers seconds"
    assert list(found) == keys.split()
    assert found["manifest"] == str(tmp_path / "clip.parquet")
    assert (found["video"], found["skipped"], found["broken_frames"]) == ("clip.mp4", False, 0)
    assert (found["samples"], found["stored_samples"]) == (4, 3)
    assert sum(found["tiers"].values()) == pytest.approx(1)


def test_the_same_command_again_writes_nothing(model: Path, clip: Path, tmp_path: Path) -> None:
    command = ("analyze", clip, "--out", tmp_path, "--model", model)
    first = succeed(*command)
    before = stamps(tmp_path)
    again = batch(*command)
    assert (again.exit_code, again.stdout.splitlines()) == (0, first)
    assert again.stderr.startswith("1 skipped; ")
    assert stamps(tmp_path) == before
    assert objects(succeed(*command, "--json"))[0]["skipped"] is True
    assert batch(*command, "--force").stderr.startswith("1 done; ")
    assert stamps(tmp_path) != before


@pytest.mark.parametrize(
    ("option", "differs"),
    [
        (["--fps", 2], "rate_hz: got 1.0, expected 2.0"),
        (["--profile", "paper"], "reference: got "),
        (["--max-samples", 2], "max_samples: got None, expected 2"),
        (["--reference", "previous"], "reference: got kept, expected previous"),
    ],
)
def test_other_settings_at_the_same_target_are_refused_and_forced(
    model: Path, clip: Path, tmp_path: Path, option: list[object], differs: str
) -> None:
    command = ("analyze", clip, "--out", tmp_path, "--model", model)
    succeed(*command)
    before = stamps(tmp_path)
    refused = batch(*command, *option)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {tmp_path / 'clip.parquet'}: already holds clip.mp4" in refused.stderr
    assert differs in refused.stderr
    assert "; --force replaces it" in refused.stderr
    assert stamps(tmp_path) == before
    succeed(*command, *option, "--force")
    assert stamps(tmp_path) != before


def test_another_video_at_the_same_target_is_refused(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeed("analyze", clip, "--out", out, "--model", model)
    other = clips.write_clip(tmp_path / "clip.mp4", [clips.flat(48, 64)] * 10)
    refused = batch("analyze", other, "--out", out, "--model", model)
    assert refused.exit_code == 1
    assert "clip.mp4, but of other work; video: got SHA-256 " in refused.stderr


def on_a_full_disk(progress: Progress) -> Handler:
    def make(task: object) -> None:
        raise NoSpaceError("there: cannot be written: no space left; make room")

    return make


def test_a_full_disk_stops_all_videos_and_is_named_once(
    model: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_make_handler", on_a_full_disk)
    videos = [tmp_path / f"{name}.mp4" for name in "abc"]
    for video in videos:
        shutil.copy(clip, video)
    result = batch("analyze", *videos, "--out", tmp_path / "out", "--model", model, "--jobs", 1)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("error: ") == result.stderr.count("no space left") == 1


def test_two_videos_of_one_stem_are_wrong_usage_before_any_work(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "clip.mkv"
    shutil.copy(clip, twin)
    refused = batch("analyze", clip, twin, "--out", tmp_path / "out", "--model", model)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{clip} and {twin} would both be written to" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_some_failed_is_3_and_all_failed_is_1(model: Path, clip: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.mp4"
    some = batch("analyze", gone, clip, "--out", tmp_path, "--model", model, "--jobs", 1)
    assert (some.exit_code, some.stdout) == (3, f"{tmp_path / 'clip.parquet'}\n")
    assert f"error: {gone}: no such file\n" in some.stderr
    assert "1 done, 1 failed; " in some.stderr
    skipped = batch("analyze", gone, clip, "--out", tmp_path, "--model", model, "--jobs", 1)
    assert skipped.exit_code == 3
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 9)
    every = batch("analyze", gone, noise, "--out", tmp_path, "--model", model)
    assert (every.exit_code, every.stdout) == (1, "")


def test_a_clip_cut_short_is_analysed_as_far_as_it_goes_with_a_warning(
    model: Path, tmp_path: Path
) -> None:
    whole = clips.moving(40, height_px=48, width_px=64, step_px=3)
    cut = clips.truncate(clips.write_clip(tmp_path / "cut.mkv", whole), keep=0.5)
    command = ("analyze", cut, "--out", tmp_path, "--model", model)
    for _ in range(2):  # also when it is done already
        result = batch(*command)
        assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'cut.parquet'}\n")
        assert "warning: cut.mkv: only " in result.stderr


def test_pictures_are_a_contact_sheet_of_each_video(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "pictures"
    succeed("analyze", clip, "--out", tmp_path, "--model", model, "--pictures", drawn)
    assert os.listdir(drawn) == ["clip.png"]


def test_what_stands_in_the_way_of_a_result_fails_its_video_by_name(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    command = ("analyze", clip, "--out", tmp_path, "--model", model)
    manifest, picture = tmp_path / "clip.parquet", tmp_path / "pictures" / "clip.png"
    picture.mkdir(parents=True)
    refused = batch(*command, "--pictures", picture.parent)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {picture}: cannot be written: Is a directory\n" in refused.stderr
    manifest.unlink()
    manifest.mkdir()
    refused = batch(*command, "--force")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {manifest}: cannot be written: Is a directory\n" in refused.stderr


def test_names_that_are_no_utf8_and_folders_that_look_like_columns_are_no_hindrance(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "camera=3"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    video = folder / f"{name}.mp4"
    shutil.copy(clip, video)
    for _ in range(2):
        result = batch("prefill", video, "--out", folder, "--model", model)
        assert result.exit_code == 0
        assert result.stdout_bytes == os.fsencode(folder / f"{name}.safetensors") + b"\n"
    found = objects(succeed("inspect", folder / f"{name}.safetensors", "--json"))[0]
    assert found["video"]["name"] == video.name
    assert batch("verify", folder / f"{name}.safetensors").exit_code == 0
