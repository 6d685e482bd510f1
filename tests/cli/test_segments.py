"""A video longer than the model's context, from `batch prefill` to answers."""

import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import open_family
from cachefmt import CacheFile, open_segments
from tests import tiny
from tests.cli.running import batch, objects, stamps, succeed
from tests.manifests import geometry_of, make_manifest, random_pictures

SAMPLES = 30
NO_PROCESS = 2**22
"""Linux numbers its processes below."""
QUESTIONS = ("-q", "what is the red star doing ?", "-q", "a b c d", "--max-new-tokens", 5)


def narrow(folder: Path, context: int = 60) -> Path:
    return tiny.llava_next(folder, context=ROOM_FOR_ANSWER + context)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow(tmp_path_factory.mktemp("models") / "narrow")


@pytest.fixture(scope="module")
def manifest(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    geometry = geometry_of(open_family(str(model)))
    path = tmp_path_factory.mktemp("long") / "long.parquet"
    source = [*range(20), 19, 19, *range(22, SAMPLES)]
    pictures = random_pictures(SAMPLES, geometry)
    make_manifest(pictures, geometry, source=source).write(path)
    return path


@pytest.fixture(scope="module")
def made(model: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    out = tmp_path_factory.mktemp("made")
    succeed("prefill", manifest, "--out", out, "--model", model)
    return out / "long.segments"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "long.segments"))


def test_a_long_video_becomes_a_folder_whose_path_is_the_only_result(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    result = batch("prefill", manifest, "--out", tmp_path, "--model", model)
    target = tmp_path / "long.segments"
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["long.segments"]
    segments = open_segments(target)
    assert len(segments) > 2
    assert sum(segment.header.shape.samples for segment in segments) == SAMPLES
    assert f"1 done; {sum(s.size_bytes for s in segments):,} bytes, " in result.stderr


def test_a_dry_run_knows_segments_and_their_size_to_the_byte(
    model: Path, manifest: Path, made: Path, tmp_path: Path
) -> None:
    command = ("prefill", manifest, "--out", tmp_path / "x", "--model", model, "--dry-run")
    (found,) = objects(succeed(*command, "--json"))
    files = sorted(made.iterdir())
    assert found["segments"] == len(files)
    assert found["size_bytes"] >= sum(file.stat().st_size for file in files)
    assert (found["written"], found["segments_written"]) == (False, 0)
    assert found["cache"] == str(tmp_path / "x" / "long.segments")
    (line,) = succeed(*command)
    assert f"{found['size_bytes']} bytes in {len(files)} segments; " in line
    assert not (tmp_path / "x").exists()


def test_memory_to_expect_is_that_of_one_segment(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    geometry = geometry_of(open_family(str(model)))
    path = tmp_path / "longer.parquet"
    make_manifest(random_pictures(3 * SAMPLES, geometry), geometry).write(path)
    command = ("prefill", manifest, path, "--out", tmp_path, "--model", model, "--dry-run")
    once, thrice = objects(succeed(*command, "--json"))
    assert thrice["segments"] > 2 * once["segments"]
    assert thrice["memory"]["peak_bytes"] <= once["memory"]["peak_bytes"]


def test_the_same_command_again_does_only_the_segments_that_are_missing(
    model: Path, manifest: Path, copy: Path
) -> None:
    command = ("prefill", manifest, "--out", copy.parent, "--model", model)
    before = stamps(copy)
    assert batch(*command).stderr.startswith("1 skipped; ")
    (copy / "00001.safetensors").unlink()
    (copy / f".00001.safetensors.{NO_PROCESS}.tmp").write_bytes(b"left by a killed writer")
    (found,) = objects(succeed(*command, "--json"))
    assert (found["written"], found["skipped"], found["segments_written"]) == (True, False, 1)
    after = stamps(copy)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == ["00001.safetensors"]


@pytest.mark.parametrize(
    "option", [["--profile", "paper"], ["--block-samples", "2"], ["--dtype", "bfloat16"]]
)
def test_segments_of_other_settings_are_refused_and_never_mixed(
    model: Path, manifest: Path, copy: Path, option: list[str]
) -> None:
    command = ("prefill", manifest, "--out", copy.parent, "--model", model, *option)
    (copy / "00000.safetensors").unlink()
    before = stamps(copy)
    refused = batch(*command)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {copy}/0000" in refused.stderr
    assert re.search(r"cache of drawn\.mp4 by .*: got .*, expected ", refused.stderr)
    assert "--force replaces it" in refused.stderr
    assert stamps(copy) == before
    succeed(*command, "--force")
    assert succeed("verify", copy) == [f"{copy}: whole"]
    assert batch(*command).stderr.startswith("1 skipped; ")


@pytest.mark.parametrize("context", [30, 120, 2000])
def test_of_another_cut_nothing_stays(
    manifest: Path, copy: Path, tmp_path: Path, context: int
) -> None:
    other = narrow(tmp_path / "other", context)
    command = ("prefill", manifest, "--out", copy.parent, "--model", other)
    before = stamps(copy)
    refused = batch(*command)
    assert refused.exit_code == 1
    assert "--force replaces it" in refused.stderr
    assert stamps(copy) == before
    (target,) = succeed(*command, "--force")
    assert copy.exists() == (target == str(copy)) == (context < 2000)
    assert succeed("verify", target) == [f"{target}: whole"]
    assert batch(*command).stderr.startswith("1 skipped; ")


def test_a_file_of_a_video_that_is_cut_now_is_refused_and_removed_by_force(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    wide, out = narrow(tmp_path / "wide", 2000), tmp_path / "out"
    (file,) = map(Path, succeed("prefill", manifest, "--out", out, "--model", wide))
    command = ("prefill", manifest, "--out", out, "--model", model)
    assert f"error: {file}: already holds a cache" in batch(*command).stderr
    succeed(*command, "--force")
    assert [path.name for path in out.iterdir()] == ["long.segments"]


def test_force_leaves_what_is_no_segment_alone(model: Path, manifest: Path, copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    before = stamps(copy)
    command = ("prefill", manifest, "--out", copy.parent, "--model", model, "--force")
    refused = batch(*command)
    assert refused.exit_code == 1
    assert f"error: {copy / 'notes.txt'}: is no segment" in refused.stderr
    assert stamps(copy) == before


def test_force_removes_nothing_before_the_model_is_loaded(
    model: Path, manifest: Path, copy: Path
) -> None:
    before = stamps(copy)
    command = ("prefill", manifest, "--out", copy.parent, "--model", model, "--force")
    refused = batch(*command, "--device", "cpu", "--attn", "triton")
    assert refused.exit_code == 1
    assert "attention by triton: " in refused.stderr
    assert stamps(copy) == before


def test_force_leaves_hidden_files_of_others_and_their_folder(
    manifest: Path, copy: Path, tmp_path: Path
) -> None:
    (copy / ".DS_Store").write_text("of a desktop")
    (copy / f".00001.safetensors.{NO_PROCESS}.tmp").write_bytes(b"left by a killed writer")
    wide = narrow(tmp_path / "wide", 2000)
    command = ("prefill", manifest, "--out", copy.parent, "--model", wide)
    (target,) = succeed(*command, "--force")
    assert target == str(copy.with_suffix(".safetensors"))
    assert [path.name for path in copy.iterdir()] == [".DS_Store"]
    assert batch(*command).stderr.startswith("1 skipped; ")


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("context", [60, 2000])
def test_a_file_that_is_called_like_a_folder_of_segments_is_never_replaced(
    manifest: Path, tmp_path: Path, context: int, force: list[str]
) -> None:
    mine = tmp_path / "long.segments"
    mine.write_text("mine")
    model = narrow(tmp_path / "model", context)
    refused = batch("prefill", manifest, "--out", tmp_path, "--model", model, *force)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {mine}: is no folder, but stands where a folder of segments" in refused.stderr
    assert mine.read_text() == "mine"


def test_a_folder_that_is_called_like_a_cache_file_is_never_replaced(
    model: Path, manifest: Path, made: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(made, tmp_path / "long.safetensors"))
    before = stamps(mine)
    refused = batch("prefill", manifest, "--out", tmp_path, "--model", model, "--force")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {mine}: is a folder, but stands where a cache goes" in refused.stderr
    assert stamps(mine) == before


def test_the_unfinished_file_of_a_writer_at_work_stays(
    model: Path, manifest: Path, copy: Path
) -> None:
    (copy / "00001.safetensors").unlink()
    theirs = copy / f".00002.safetensors.{os.getppid()}.tmp"
    theirs.write_bytes(b"not finished")
    succeed("prefill", manifest, "--out", copy.parent, "--model", model)
    theirs.unlink()


def test_inspect_shows_each_segment_and_sums(made: Path) -> None:
    (found,) = objects(succeed("inspect", made, "--json"))
    files = sorted(made.iterdir())
    parts = found["segments"]
    assert [part["size_bytes"] for part in parts] == [file.stat().st_size for file in files]
    assert found["size_bytes"] == sum(part["size_bytes"] for part in parts)
    assert found["size_bytes"] == sum(found["bytes"].values())
    assert (found["samples"], found["stored_samples"]) == (SAMPLES, SAMPLES - 2)
    assert [part["first_s"] for part in parts] == [part["first_sample"] for part in parts]
    assert all(one["last_s"] < two["first_s"] for one, two in pairwise(parts))
    lines = succeed("inspect", made)
    assert len(lines) == len(succeed("inspect", files[0])) + 2 + len(parts)
    assert f" {parts[-1]['size_bytes']:,}" in lines[-1]


def test_verify_names_the_damaged_segment(copy: Path) -> None:
    with CacheFile.open(copy / "00001.safetensors") as cache:
        assert cache.names[-2:] == ["block.00000.00", "index"]
        at = cache.size_bytes - sum(map(cache.tensor_bytes, cache.names[-2:]))
    data = bytearray((copy / "00001.safetensors").read_bytes())
    data[at] ^= 1
    (copy / "00001.safetensors").write_bytes(bytes(data))
    result = batch("verify", copy)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {copy / '00001.safetensors'}: block.00000.00 does not" in result.stderr


@pytest.mark.parametrize("command", ["inspect", "verify", "answer"])
def test_a_folder_that_is_not_whole_is_refused_by_every_command(copy: Path, command: str) -> None:
    (copy / "00000.safetensors").unlink()
    words = ("answer", copy, *QUESTIONS) if command == "answer" else (command, copy)
    refused = batch(*words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "00000.safetensors: is missing" in refused.stderr
    assert "the same batch prefill goes on" in refused.stderr


def test_every_segment_answers_and_the_likeliest_answer_is_the_videos(made: Path) -> None:
    command = ("answer", made, *QUESTIONS, "--scope", "each-segment")
    found = objects(succeed(*command, "--json"))
    files = sorted(made.iterdir())
    for number, reply in enumerate(found):
        assert reply["scope"] == "each-segment"
        assert reply["load_bytes"] == sum(file.stat().st_size for file in files)
        candidates = reply["candidates"]
        assert [candidate["segment"] for candidate in candidates] == list(range(len(files)))
        best = max(candidates, key=lambda candidate: candidate["likelihood"])
        assert (reply["answer"], reply["evidence"]) == (best["answer"], best["evidence"])
        for file, candidate in zip(files, candidates, strict=True):
            words = ("answer", file, *QUESTIONS, "--scope", "each-segment", "--json")
            (alone,) = objects(succeed(*words))[number]["candidates"]
            assert alone == candidate
            span = candidate["time"]
            assert all(
                span["start_s"] <= time["start_s"] < time["stop_s"] <= span["stop_s"]
                for time in candidate["evidence"]
            )
    assert succeed(*command, "--batch-size", 1) == succeed(*command)


def test_each_segment_keeps_to_the_budget(made: Path) -> None:
    command = ("answer", made, *QUESTIONS, "--scope", "each-segment", "--json")
    assert objects(succeed(*command)) != objects(succeed(*command, "--budget-tokens", 100))
    refused = batch(*command, "--budget-tokens", 3)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "00000.safetensors: not even the best sample" in refused.stderr
