"""`batch answer`: questions from -q or stdin, one answer a line."""

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np

from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.settings import Scope
from cachefmt import Tier
from tests import tiny
from tests.cli.running import batch, objects, succeed
from tests.manifests import make_manifest, random_pictures
from tests.tiny.files import loaded
from tests.tiny.llava import llava_next_video

QUESTIONS = ["what is the red star doing ?", "a b c d", "the star ?"]


def test_one_answer_a_line_in_the_order_of_the_questions(cache: Path) -> None:
    asked = [word for question in QUESTIONS for word in ("-q", question)]
    result = batch("answer", cache, *asked, "--max-new-tokens", 8)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) > 1
    alone = [
        succeed("answer", cache, "-q", question, "--max-new-tokens", 8) for question in QUESTIONS
    ]
    assert [[line] for line in lines] == alone


def test_without_questions_each_line_of_stdin_is_one_and_blank_lines_are_none(
    cache: Path,
) -> None:
    asked = [word for question in QUESTIONS for word in ("-q", question)]
    expected = succeed("answer", cache, *asked)
    stdin = "\n  \n".join(QUESTIONS) + "\n\n"
    assert succeed("answer", cache, stdin=stdin) == expected
    assert succeed("answer", cache, "--batch-size", 1, stdin=stdin) == expected


def test_questions_given_are_preferred_to_stdin(cache: Path) -> None:
    assert len(succeed("answer", cache, "-q", "a", stdin="b\nc\n")) == 1


def test_json_lines_have_stable_keys(cache: Path) -> None:
    lines = succeed("answer", cache, "-q", "a", "-q", "what ?", "--json", "--max-new-tokens", 2)
    found = objects(lines)
    keys = ["question", "answer", "tokens", "complete", "evidence"]
    keys += ["scope", "load_seconds", "load_bytes", "reencode_seconds"]
    assert [list(reply) for reply in found] == [keys, keys]
    assert all(reply["load_bytes"] == cache.stat().st_size for reply in found)
    assert [reply["question"] for reply in found] == ["a", "what ?"]
    assert all(1 <= reply["tokens"] <= 2 for reply in found)
    times = [time for reply in found for time in reply["evidence"]]
    assert times
    assert all(0 <= time["start_s"] < time["stop_s"] for time in times)


def test_behind_an_answer_stand_the_times_it_rests_on(cache: Path) -> None:
    (line,) = succeed("answer", cache, "-q", "what is the red star doing ?")
    (reply,) = objects(succeed("answer", cache, "-q", "what is the red star doing ?", "--json"))
    text, times = line.split("\t")
    assert text == reply["answer"]
    clock = [f"00:00:{int(time['start_s']):02}" for time in reply["evidence"]]
    spans = times.removeprefix("at ").split(", ")
    assert [span.split("-")[0].split(".")[0] for span in spans] == clock


def test_an_answer_that_rests_on_no_sample_names_no_time(tmp_path: Path) -> None:
    folder = llava_next_video(tmp_path / "model")  # it has no text that belongs to a sample
    family = loaded(folder)
    geometry = family.geometry.for_video(64, 64, 16)
    tiers = np.full((2, geometry.cells), Tier.PRUNE, np.uint8)
    manifest = make_manifest(random_pictures(2, geometry), geometry, tier=tiers)
    path = tmp_path / "blank.safetensors"
    prefill(plan_cache(manifest, family, dtype="float32"), family, path)
    for scope in get_args(Scope):
        (line,) = succeed("answer", path, "-q", "a", "--scope", scope)
        assert line.split("\t")[1:] == ["at no time"]


def test_the_video_and_the_manifest_are_not_needed(
    model: Path, clip: Path, cache: Path, tmp_path: Path
) -> None:
    video, out = tmp_path / "clip.mp4", tmp_path / "out"
    shutil.copy(clip, video)
    succeed("prefill", video, "--out", out, "--model", model)
    video.unlink()
    (out / "clip.parquet").unlink()
    for question in QUESTIONS:
        got = succeed("answer", out / "clip.safetensors", "-q", question)
        assert got == succeed("answer", cache, "-q", question)


def test_an_answer_of_several_lines_is_one_line_but_for_json(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    talkative = tmp_path / "talkative"
    shutil.copytree(model, talkative)
    file = talkative / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = {
        f"{word}\n{word}" if number > tiny.WORDS.index("/") else word: number
        for word, number in vocabulary.items()
    }
    file.write_text(json.dumps(words))
    succeed("prefill", manifest, "--out", tmp_path, "--model", talkative)
    command = ("answer", tmp_path / "clip.safetensors", "-q", "x", "-q", "y z")
    whole = [reply["answer"] for reply in objects(succeed(*command, "--json"))]
    assert all("\n" in answer for answer in whole)
    lines = [line.split("\t")[0] for line in succeed(*command)]
    assert lines == [answer.replace("\n", " ") for answer in whole]


def test_a_model_that_was_moved_is_asked_for_and_accepted(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(model, here)
    succeed("prefill", manifest, "--out", tmp_path, "--model", here)
    command = ("answer", tmp_path / "clip.safetensors", "-q", "what is the star ?")
    expected = succeed(*command)
    here.rename(there)
    refused = batch(*command)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {tmp_path / 'clip.safetensors'}: {here}: " in refused.stderr
    assert "--model FOLDER" in refused.stderr
    assert succeed(*command, "--model", there) == expected
