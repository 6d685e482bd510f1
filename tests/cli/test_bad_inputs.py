"""Whatever is given: a line that names it, the right exit code, and nothing left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cachefmt import CacheFile
from tests import clips, tiny
from tests.cli.running import batch, stamps

Make = Callable[[Path], object]


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("Who is at the door?\n" * 50)


def truncated(path: Path) -> None:
    frames = clips.moving(20, height_px=48, width_px=64, step_px=3)
    clips.truncate(clips.write_clip(path, frames), keep=0.5)


WRONG: dict[str, tuple[Make, str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (empty, "is an empty file, expected "),
    "an empty folder": (Path.mkdir, "is an empty folder, expected "),
    "text": (text, "is a text file, expected "),
}


@pytest.mark.parametrize("command", ["analyze", "prefill"])
@pytest.mark.parametrize("case", WRONG)
def test_what_a_look_shows_to_be_no_video_is_wrong_usage(
    tmp_path: Path, command: str, case: str
) -> None:
    make, message = WRONG[case]
    make(tmp_path / "x.mp4")
    result = batch(command, tmp_path / "x.mp4", "--out", tmp_path / "out", "--model", "demo")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {tmp_path / 'x.mp4'}: {message}")
    assert not (tmp_path / "out").exists()


VIDEOS: dict[str, tuple[str, Make, str]] = {
    "truncated": ("x.mp4", truncated, "not a video, or cut off before its index"),
    "sound": ("x.mp4", clips.write_audio, "got streams audio, expected video"),
}


@pytest.mark.parametrize("command", ["analyze", "prefill"])
@pytest.mark.parametrize("case", VIDEOS)
def test_a_video_that_is_none_is_refused_by_name(
    model: Path, tmp_path: Path, command: str, case: str
) -> None:
    name, make, message = VIDEOS[case]
    out = tmp_path / "out"
    make(tmp_path / name)
    result = batch(command, tmp_path / name, "--out", out, "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tmp_path / name}: {message}")
    assert "1 failed; 0 bytes" in result.stderr
    assert stamps(out) == {}


def test_of_a_folder_with_caches_in_it_one_is_named_that_can_be_asked(cache: Path) -> None:
    result = batch("answer", cache.parent, "-q", "what")
    assert (result.exit_code, result.stdout) == (2, "")
    named = min(path for path in cache.parent.iterdir() if path.suffix == ".safetensors")
    assert f"batch answer {named} -q" in result.stderr


def test_a_cache_given_to_prefill_is_refused_by_name(
    model: Path, cache: Path, tmp_path: Path
) -> None:
    result = batch("prefill", cache, "--out", tmp_path, "--model", model)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"error: {cache}: is a cache, expected a manifest or a video\n  batch answer {cache} -q"
    )


@pytest.fixture
def broken_manifests(manifest: Path, tmp_path: Path) -> dict[str, Path]:
    """Files that are no manifest although they are called one."""
    found = {name: tmp_path / f"{name}.parquet" for name in ("cut", "text")}
    shutil.copy(manifest, found["cut"])
    clips.truncate(found["cut"], keep=0.7)
    text(found["text"])
    return found


@pytest.mark.parametrize("case", ["cut", "text"])
def test_a_manifest_that_is_none_is_refused_by_name(
    model: Path, broken_manifests: dict[str, Path], tmp_path: Path, case: str
) -> None:
    path = broken_manifests[case]
    result = batch("prefill", path, "--out", tmp_path / "out", "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {path}: not a whole manifest: ")
    assert stamps(tmp_path / "out") == {}


def test_a_flipped_bit_in_a_manifest_is_found_or_changes_nothing(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    whole = manifest.read_bytes()
    path, found = tmp_path / "clip.parquet", 0
    command = ("prefill", path, "--out", tmp_path / "out", "--model", model)
    path.write_bytes(whole)
    expected = batch(*command, "--dry-run", "--json").stdout
    for at in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        result = batch(*command, "--dry-run", "--json")
        if result.exit_code == 0:
            assert result.stdout == expected
            continue
        found += 1
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {path}: not a whole manifest: ")
    assert found > 10


def test_a_manifest_for_another_geometry_is_refused_with_the_command_that_helps(
    manifest: Path, tmp_path: Path
) -> None:
    larger = tiny.llava_next(tmp_path / "larger", image_px=42)
    result = batch("prefill", manifest, "--out", tmp_path / "out", "--model", larger)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "clip.mp4: the manifest was made for Geometry(height_px=28" in result.stderr
    assert f"batch analyze --model {larger} --force" in result.stderr
    assert stamps(tmp_path / "out") == {}


@pytest.fixture
def broken_caches(manifest: Path, cache: Path, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no whole cache, and what is said of them."""
    cut, table = tmp_path / "cut.safetensors", tmp_path / "table.safetensors"
    shutil.copy(cache, cut)
    clips.truncate(cut, keep=0.9)
    with CacheFile.open(cache) as opened:
        at = opened.header_size_bytes + opened.tensor_bytes("cost.seconds")  # the tables follow
    whole = cache.read_bytes()
    table.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    text(tmp_path / "text.safetensors")
    (tmp_path / "empty.safetensors").touch()
    return {
        "cut": (cut, "is truncated"),
        "table": (table, "tables does not match its digest"),
        "text": (tmp_path / "text.safetensors", "is no safetensors file"),
        "empty": (tmp_path / "empty.safetensors", "is empty"),
    }


@pytest.mark.parametrize("case", ["cut", "table", "text", "empty"])
def test_a_cache_that_is_none_is_refused_by_name(
    broken_caches: dict[str, tuple[Path, str]], case: str
) -> None:
    path, message = broken_caches[case]
    for command in (["answer", "-q", "a", "--cache"], ["inspect"], ["verify"]):
        if command == ["inspect"] and case == "table":
            continue  # it reads no tables
        result = batch(*command, path)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {path}: {message}")


def test_what_is_meant_for_another_command_is_told_with_that_command(
    model: Path, clip: Path, manifest: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "index" / "runs").mkdir(parents=True)
    (tmp_path / "index" / "runs" / ".lock").touch()
    out = ("--out", tmp_path / "out", "--model", model)
    commands = {
        ("answer", "-q", "a"): {clip: "prefill", manifest: "prefill", cache.parent: "answer"},
        ("inspect",): {clip: "prefill", model: "", tmp_path / "index": "answer"},
        ("verify",): {clip: "prefill", manifest: "prefill", clip.parent: "index"},
        ("status",): {cache: "answer", clip.parent: "index"},
        ("prefill", *out): {cache: "answer", clip.parent: "index", tmp_path / "index": "answer"},
        ("analyze", *out): {manifest: "prefill", cache: "answer"},
        ("index", *out): {clip: "prefill", cache: "answer", tmp_path / "index": "answer"},
    }
    for (command, *options), cases in commands.items():
        for path, helps in cases.items():
            result = batch(command, path, *options)
            assert (result.exit_code, result.stdout) == (2, ""), (command, path)
            assert f"{path}: is a" in result.stderr
            assert f"\n  batch {helps} {path}" in result.stderr or not helps
    assert not (tmp_path / "out").exists()


def test_a_wrong_input_among_right_ones_is_named_and_the_others_are_done(
    model: Path, clip: Path, cache: Path, tmp_path: Path
) -> None:
    gone, out = tmp_path / "gone.mp4", tmp_path / "out"
    result = batch("analyze", gone, clip, "--out", out, "--model", model)
    assert (result.exit_code, result.stdout) == (3, f"{out / 'clip.parquet'}\n")
    assert result.stderr.startswith(f"error: {gone}: no such file\n")


@pytest.mark.parametrize("command", [["answer", "-q", "a", "--cache"], ["inspect"]])
def test_a_missing_cache_and_a_folder_of_something_else_are_wrong_usage(
    tmp_path: Path, command: list[str]
) -> None:
    gone = batch(*command, tmp_path / "gone.safetensors")
    assert (gone.exit_code, gone.stdout) == (2, "")
    assert f"'{tmp_path / 'gone.safetensors'}'" in gone.stderr
    (tmp_path / "film.mp4").touch()
    other = batch(*command, tmp_path)
    assert (other.exit_code, other.stdout) == (2, "")
    assert f"{tmp_path}: is a folder, expected a cache\n  batch index {tmp_path} " in other.stderr


def test_a_damaged_manifest_beside_a_video_is_refused_and_forced(
    model: Path, clip: Path, manifest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "clip.parquet"
    shutil.copy(manifest, target)
    clips.truncate(target, keep=0.5)
    command = ("prefill", clip, "--out", tmp_path, "--model", model)
    result = batch(*command)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {target}: not a whole manifest: ")
    assert batch(*command, "--force").exit_code == 0


def test_a_file_that_is_no_cache_is_not_overwritten_unless_forced(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "clip.safetensors"
    text(target)
    command = ("prefill", manifest, "--out", tmp_path, "--model", model)
    before = stamps(tmp_path)
    result = batch(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {target}: is no safetensors file")
    assert stamps(tmp_path) == before
    assert batch(*command, "--force").exit_code == 0


def test_another_model_is_refused_with_commands_that_help(cache: Path, tmp_path: Path) -> None:
    tuned = tiny.llava_next(tmp_path / "tuned", seed=1)
    result = batch("answer", "--cache", cache, "-q", "a", "--model", tuned)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {cache}: written with ")
    assert f"batch answer {cache}\n" in result.stderr
    assert f"batch prefill --force --model {tuned} --out {cache.parent} clip.mp4" in result.stderr


@pytest.fixture
def broken_models(model: Path, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Folders that are no whole checkpoint, and what is said of them."""
    found = {}
    for name in ("no config", "no weights", "cut weights", "lacking weights"):
        folder = tmp_path / name
        shutil.copytree(model, folder)
        found[name] = folder
    (found["no config"] / "config.json").unlink()
    weights = "model.safetensors"
    (found["no weights"] / weights).unlink()
    clips.truncate(found["cut weights"] / weights, keep=0.6)
    tensors = load_file(model / weights)
    del tensors["language_model.model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, found["lacking weights"] / weights, {"format": "pt"})
    text(tmp_path / "file")
    return {
        "no config": (found["no config"], "no checkpoint: the folder has no config.json"),
        "no weights": (found["no weights"], "no model.safetensors in "),
        "cut weights": (found["cut weights"], "the weights cannot be loaded"),
        "lacking weights": (found["lacking weights"], "1 weights are missing, as "),
        "file": (tmp_path / "file", "is a file, expected the folder of a checkpoint"),
        "missing": (tmp_path / "gone", "no such folder"),
    }


@pytest.mark.parametrize(
    "case", ["no config", "no weights", "cut weights", "lacking weights", "file", "missing"]
)
def test_a_model_that_is_none_is_refused_by_name(
    broken_models: dict[str, tuple[Path, str]], manifest: Path, tmp_path: Path, case: str
) -> None:
    path, message = broken_models[case]
    result = batch("prefill", manifest, "--out", tmp_path / "out", "--model", path, "--offline")
    is_seen_at_once = case in ("no config", "file", "missing")
    assert (result.exit_code, result.stdout) == (2 if is_seen_at_once else 1, "")
    assert f": {path}: {message}" in result.stderr
    assert stamps(tmp_path / "out") == {}


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
def test_a_device_that_torch_cannot_use_is_refused_by_name(
    model: Path, manifest: Path, cache: Path, tmp_path: Path, device: str
) -> None:
    out = tmp_path / "out"
    prefill = batch("prefill", manifest, "--out", out, "--model", model, "--device", device)
    answer = batch("answer", "--cache", cache, "-q", "a", "--device", device)
    for result in (prefill, answer):
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: --device {device}: torch cannot use it here: ")
    assert not out.exists()


@pytest.mark.parametrize("command", ["analyze", "prefill"])
def test_a_folder_that_cannot_be_made_is_refused_by_name(
    model: Path, clip: Path, tmp_path: Path, command: str
) -> None:
    text(tmp_path / "file")
    out = tmp_path / "file" / "out"
    result = batch(command, clip, "--out", out, "--model", model)
    assert (result.exit_code, result.stdout) == (1, "")
    file = tmp_path / "file"
    assert result.stderr == f"error: {out}: this folder cannot be made: {file} is a file\n"
    result = batch(command, clip, "--out", tmp_path / "file", "--model", model)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_folder_for_pictures_that_cannot_be_made_is_refused_before_any_work(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    text(tmp_path / "file")
    pictures = tmp_path / "file" / "pictures"
    command = ("analyze", clip, "--out", tmp_path / "out", "--model", model)
    result = batch(*command, "--pictures", pictures)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {pictures}: this folder cannot be made")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "2000", "often"])
@pytest.mark.parametrize("command", ["analyze", "prefill"])
def test_a_rate_that_is_none_is_wrong_usage(
    model: Path, clip: Path, tmp_path: Path, command: str, rate: str
) -> None:
    out = tmp_path / "out"
    result = batch(command, clip, "--out", out, "--model", model, "--fps", rate)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--fps" in result.stderr
    assert stamps(tmp_path) == {}


def test_an_unknown_profile_is_wrong_usage_with_those_there_are(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    command = ("prefill", manifest, "--out", tmp_path, "--model", model)
    result = batch(*command, "--profile", "best")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'best' is not one of 'default', 'paper', 'none'" in result.stderr


@pytest.mark.parametrize("stdin", ["", "\n \n"])
def test_no_question_is_wrong_usage(cache: Path, stdin: str) -> None:
    result = batch("answer", "--cache", cache, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no question: give -q, or one per line of stdin" in result.stderr


def test_a_question_that_is_no_text_is_wrong_usage(cache: Path) -> None:
    for result in (
        batch("answer", "--cache", cache, stdin=b"what is \xff ?\n"),
        batch("answer", "--cache", cache, "-q", "what is \udcff ?"),
    ):
        assert (result.exit_code, result.stdout) == (2, "")
        assert "not UTF-8" in result.stderr


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "a question is empty"),
        ("is <image> red ?", "holds '<image>', which"),
        ("</s> who ?", "holds '</s>'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_any_answer(
    cache: Path, question: str, message: str
) -> None:
    command = ("answer", "--cache", cache, "--batch-size", 1)
    result = batch(*command, "-q", "what ?", "-q", question)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: a question " in result.stderr
    assert message in result.stderr
