"""`batch calibrate`, and the commands that find what it made."""

import json
import shutil
from pathlib import Path

import pytest

from tests import clips
from tests.cli.running import batch, objects, stamps, succeed

NAME = "tiny.calibration.safetensors"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "deep").mkdir()
    for number, name in enumerate(("a.mp4", "b.mp4", "deep/c.mp4", "deep/a.mp4")):
        drawn = clips.moving(40, height_px=48, width_px=64, step_px=3, seed=number)
        clips.write_clip(folder / name, drawn)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def made(films: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibration and a cache that was written with it; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    succeed("calibrate", films, "--out", folder, "--model", model)
    succeed("prefill", films / "a.mp4", "--out", folder, "--model", model)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_a_folder_is_searched_and_the_summary_says_what_was_counted_in(
    films: Path, model: Path, tmp_path: Path
) -> None:
    result = batch("calibrate", films, "--out", tmp_path, "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    (said,) = objects(result.stdout.splitlines())
    path = tmp_path / NAME
    assert said["calibration"] == str(path)
    assert (said["videos"], said["skipped"]) == (3, False)  # of two that share a name the first
    assert said["size_bytes"] == path.stat().st_size
    assert sum(said["components"]) > 0
    summary = result.stderr.splitlines()[-2:]
    assert summary[0].startswith(f"3 videos, {said['tokens']:,} tokens; ")
    assert summary[1].startswith(f"3 done; {said['size_bytes']:,} bytes, ")
    assert {file.name for file in tmp_path.iterdir()} == {
        *(NAME, "a.parquet", "b.parquet", "c.parquet")
    }


def test_the_same_command_again_does_nothing_and_another_is_refused(
    films: Path, model: Path, copied: Path
) -> None:
    before = stamps(copied)
    again = batch("calibrate", films, "--out", copied, "--model", model, "--json")
    assert (again.exit_code, json.loads(again.stdout)["skipped"]) == (0, True)
    for other in ([films / "a.mp4"], [films, "--components", 5]):
        result = batch("calibrate", *other, "--out", copied, "--model", model)
        assert result.exit_code == 1
        assert f"{copied / NAME}: already holds a calibration of other videos" in result.stderr
    assert stamps(copied) == before


def test_what_a_killed_command_left_is_gone_on_with(
    films: Path, model: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch.making.calibrating import Calibrator

    add, added = Calibrator.add, list[str]()

    def kill_at_the_second(self: Calibrator, manifest: object, **others: object) -> None:
        if len(added) == 1:
            raise KeyboardInterrupt
        add(self, manifest, **others)  # type: ignore[arg-type]
        added.append("one")

    command = ("calibrate", films, "--out", tmp_path, "--model", model)
    monkeypatch.setattr(Calibrator, "add", kill_at_the_second)
    assert batch(*command).exit_code == 130
    assert (tmp_path / f".{NAME}.part").exists()
    assert not (tmp_path / NAME).exists()
    counted: list[object] = []

    def count(self: Calibrator, manifest: object, **others: object) -> None:
        counted.append(manifest)
        add(self, manifest, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Calibrator, "add", count)
    succeed(*command)
    assert len(counted) == 2
    assert (tmp_path / NAME).read_bytes() == (made / NAME).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_one_bad_video_does_not_stop_the_others(films: Path, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    out = tmp_path / "out"
    result = batch("calibrate", bad, films / "b.mp4", "--out", out, "--model", model)
    assert result.exit_code == 3
    assert str(bad) in result.stderr
    assert "1 done, 1 failed" in result.stderr
    alone = tmp_path / "alone"
    result = batch("calibrate", bad, "--out", alone, "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert list(alone.iterdir()) == []


def test_a_folder_without_videos_is_wrong_usage(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = batch("calibrate", tmp_path / "empty", "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 2
    assert "no file in this folder is called as a video is" in result.stderr


def test_prefill_uses_it_and_other_commands_find_it(made: Path, films: Path) -> None:
    cache = made / "a.safetensors"
    (seen,) = objects(succeed("inspect", cache, "--json"))
    (there,) = objects(
        succeed("calibrate", films, "--out", made, "--model", made_by(cache), "--json")
    )
    assert seen["codec"]["calibration"] == there["sha256"]
    assert seen["codec"]["text_tokens"] > 0
    assert succeed("verify", cache) == [f"{cache}: whole"]
    assert succeed("answer", cache, "-q", "what is the red star doing ?")


def made_by(cache: Path) -> str:
    (seen,) = objects(succeed("inspect", cache, "--json"))
    return str(seen["model"]["id"])


def test_quality_lossless_has_no_use_for_it(
    copied: Path, films: Path, model: Path, tmp_path: Path
) -> None:
    words = ("prefill", films / "b.mp4", "--out", copied, "--model", model, "--quality", "lossless")
    (said,) = objects(succeed(*words, "--json"))
    assert said["codec"] == "plain"


def test_a_dry_run_counts_with_it(copied: Path, films: Path, model: Path) -> None:
    words = ("prefill", films / "b.mp4", "--out", copied, "--model", model, "--json")
    (expected,) = objects(succeed(*words, "--dry-run"))
    (written,) = objects(succeed(*words))
    assert expected["codec"] == written["codec"] == "klt"
    assert expected["size_bytes"] >= written["size_bytes"]


@pytest.mark.parametrize("command", ["answer", "verify"])
def test_a_calibration_that_was_removed_or_changed_is_missed_by_name(
    copied: Path, command: str
) -> None:
    cache, path = copied / "a.safetensors", copied / NAME
    words = ("answer", cache, "-q", "what ?") if command == "answer" else ("verify", cache)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = batch(*words)
    assert result.exit_code == 1
    assert f"{path} has " in result.stderr
    path.unlink()
    result = batch(*words)
    assert result.exit_code == 1
    assert "needs the calibration with SHA-256" in result.stderr
    assert "batch prefill --force" in result.stderr
    path.write_bytes(content)
    succeed(*words)


def test_a_damaged_calibration_stops_prefill_before_anything_is_written(
    copied: Path, films: Path, model: Path
) -> None:
    path = copied / NAME
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = stamps(copied)
    result = batch("prefill", films / "b.mp4", "--out", copied, "--model", model)
    assert result.exit_code == 1
    assert f"error: {path}: does not match its data_sha256" in result.stderr
    assert stamps(copied) == before
