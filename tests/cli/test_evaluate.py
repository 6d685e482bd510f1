"""`batch evaluate` runs methods over the same questions and writes down what it found."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batch.cli import evaluate as command
from batch.evaluation import choosing, methods, running
from batch.evaluation.judges.schemes import SCHEMES
from batch.evaluation.judges.seeing_films import CARD
from tests.cli.running import batch, objects, succeed
from tests.clips import write_clip
from tests.models.cases import draw_clip
from tests.tiny import judge

METHODS = ("--method", "sali-cache", "--method", "random")
FEW = ("--budget-tokens", 12)
WRITTEN = (
    *("evaluate", "--data", "demo:easy", "--videos", 2, "--seed", 5, *METHODS),
    *("--budget-bytes", "40%"),
)


@pytest.fixture(scope="module")
def questions(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of one's own about the clip."""
    path = tmp_path_factory.mktemp("questions") / "own.jsonl"
    lines = [
        {"video": str(clip), "question": question, "answer": "star"}
        for question in ("what is the red star ?", "a b c")
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of the bundled model on two short films."""
    out = tmp_path_factory.mktemp("written")
    assert succeed(*WRITTEN, "--out", out)[0] == "Table I: answers"
    return out


def test_a_rate_that_is_none_is_wrong_usage() -> None:
    result = batch("evaluate", "--fps", "nan")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--fps" in result.stderr


def test_the_table_names_what_was_compared(written: Path) -> None:
    found = json.loads((written / "results" / "table.json").read_text())
    assert found["command"].split()[0] == "batch"
    assert found["judges"][0]["sets"][0]["videos"] == 2
    assert all(row["void"] is None for row in found["methods"])


def test_results_show_every_table_and_picture(written: Path) -> None:
    text = (written / "RESULTS.md").read_text()
    for title in ("Table I", "Table II", "Table III", "by kind of question", "by question set"):
        assert title in text
    pictures = {path.name for path in (written / "results").glob("*.png")}
    assert {"judges.png", "tiers.png", "bytes.png"} <= pictures
    for name in pictures:
        assert f"results/{name}" in text


def test_every_answer_is_in_the_parquet_file(written: Path) -> None:
    rows = pq.read_table(written / "results" / "answers.parquet").to_pylist()
    found = json.loads((written / "results" / "table.json").read_text())
    assert len(rows) == sum(row["n"] for row in found["methods"])
    own = [row for row in rows if row["method"] == "uncompressed"]
    assert all(row["answer"] == row["uncompressed"] and row["kl"] == 0 for row in own)
    accuracy = sum(row["right"] for row in own) / len(own)
    assert accuracy == pytest.approx(found["methods"][0]["accuracy"])


def test_what_was_run_is_not_run_again(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(running, "run_video")
    table = written / "results" / "table.json"
    before = json.loads(table.read_text())["methods"]
    again = objects(succeed(*WRITTEN, "--out", written, "--json"))
    assert again == json.loads(table.read_text())["methods"] == before
    assert {row["judge"] for row in again} == {"demo"}
    assert [(row["method"], row["kind"], row["in_file"]) for row in again][:2] == [
        ("uncompressed", "whole", True),
        ("sali-cache", "before", True),
    ]


@pytest.fixture(scope="module")
def rows(
    questions: Path, model: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What the command prints of a model with random weights, and of answers from elsewhere."""
    path = tmp_path_factory.mktemp("elsewhere") / "rivals.jsonl"
    line = {"method": "knorm", "profile": "ratio 0.5", "video": clip.name, "answer": "star"}
    asked = [json.loads(text)["question"] for text in questions.read_text().splitlines()]
    path.write_text(
        "\n".join(json.dumps({**line, "question": one, "bytes": 9, "seconds": 1}) for one in asked)
    )
    arguments = ("--data", questions, "--model", model, "--rows", path, *METHODS, *FEW)
    return objects(succeed("evaluate", *arguments, "--budget-bytes", "400%", "--json"))


def test_a_method_has_a_row_as_it_is_and_one_a_budget(rows: list[dict[str, Any]]) -> None:
    assert [(row["method"], row["profile"], row["budget"]) for row in rows] == [
        ("uncompressed", None, None),
        ("sali-cache", "paper", None),
        ("sali-cache", "default", None),
        ("sali-cache", "paper", "12 tokens"),
        ("sali-cache", "default", "12 tokens"),
        ("random", None, "12 tokens"),
        ("sali-cache", "paper", "400% bytes"),
        ("sali-cache", "default", "400% bytes"),
        ("random", None, "400% bytes"),
        ("knorm", "ratio 0.5", None),
    ]
    assert {row["n"] for row in rows} == {2}


def test_rows_from_elsewhere_join_the_table(rows: list[dict[str, Any]]) -> None:
    found = rows[-1]
    assert (found["method"], found["accuracy"], found["bytes"]) == ("knorm", 1.0, 9)
    assert found["kl"] is None


def test_a_void_comparison_says_so_first(questions: Path, model: Path) -> None:
    lines = succeed("evaluate", "--data", questions, "--model", model, "--method", "random", *FEW)
    assert lines[0].startswith("VOID, " + str(model) + ": no method is right more often")


def test_an_ablation_takes_one_part_away(
    questions: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choosing.SUITES, "ablations", methods.ABLATIONS[:3])
    suite = ("--suite", "ablations", "--json")
    rows = objects(succeed("evaluate", "--data", questions, "--model", model, *suite))
    profiles = [row["profile"] for row in rows[1:]]
    assert profiles == ["default", "default, no temporal signal", "default, no saliency"]
    assert all(row["budget"] is None for row in rows)


def test_a_variant_that_is_none_is_named() -> None:
    result = batch("evaluate", "--videos", 1, "--data", "demo:magic")
    assert result.exit_code == 1
    assert "got the variant 'magic'" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--method", "magic"), "got 'magic', there are full"),
        (("--budget-bytes", "much"), "got 'much', expected a number like 784"),
        (("--budget-tokens", "0"), "got '0', expected a number like 784"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder"),
    ],
)
def test_a_name_or_number_of_nothing_is_wrong_usage(arguments: tuple[str, ...], error: str) -> None:
    result = batch("evaluate", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr


def test_the_names_that_are_known_without_torch_are_those_of_the_methods() -> None:
    names = [method.name for method in methods.METHODS]
    names += [scheme.label.method for scheme in SCHEMES]
    assert tuple(dict.fromkeys(names)) == command.METHODS


def test_a_budget_that_holds_nothing_is_named_with_its_video(
    questions: Path, model: Path, clip: Path
) -> None:
    arguments = ("--data", questions, "--model", model, "--budget-bytes", 100)
    result = batch("evaluate", *arguments, "--method", "random")
    assert result.exit_code == 1
    assert f"{clip.name}, random 100 bytes: a budget of 100 bytes does not hold" in result.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "EXTRA", {"no_such_package": "no-such-package>=1"})
    result = batch("evaluate")
    assert result.exit_code == 1
    assert "pip install 'no-such-package>=1'" in result.stderr


@pytest.mark.parametrize(
    "suite", ["methods --judge prose", "methods --judge demo --judge seeing", "codec", "reuse"]
)
def test_a_judge_that_is_not_there_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = batch("evaluate", "--suite", *suite.split(), "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "make judges" in result.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--judge prose --data demo", "--data needs --judge demo"),
        ("--judge seeing --model demo", "--model needs --judge demo"),
        ("--contexts 3", "--contexts needs --judge prose"),
        ("--judge prose --videos 3", "--videos does not go with --judge prose alone"),
        ("--judge prose --rows README.md", "--rows does not go with --judge prose alone"),
        ("--judge prose --suite reuse", "--judge prose does not go with --suite reuse"),
        ("--judge prose --suite ablations", "--judge prose does not go with --suite ablations"),
        ("--suite codec --suite methods", "--suite codec is run by itself"),
        ("--suite codec --seed 3", "--seed does not go with --suite codec"),
        ("--suite reuse --contexts 3", "--contexts needs --judge prose"),
    ],
)
def test_options_of_another_suite_or_judge_are_wrong_usage(words: str, error: str) -> None:
    result = batch("evaluate", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr


def test_the_judge_that_sees_answers_with_and_without_the_video_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = judge.judge(tmp_path / "build" / "judge")
    (folder / CARD).write_text(json.dumps({"kinds": ["detail", "count"], "clips": []}))
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "clip.mp4", draw_clip(3, 64, 64))
    asked = ("--judge", "seeing", "--judge", "demo", "--data", "demo:easy")
    few = ("--videos", 1, "--method", "full", "--backgrounds", "clips")
    rows = objects(succeed("evaluate", *asked, *few, "--json"))
    assert [(row["judge"], row["method"], row["videos"]) for row in rows] == [
        *(("seeing", method, 2) for method in ("uncompressed", "no video", "full")),
        *(("demo", method, 1) for method in ("uncompressed", "full")),
    ]
    assert set(rows[0]["accuracy_by_kind"]) == {"detail", "count"}
    by_row = [row["agreement_em"] for row in rows]
    assert by_row[0] == by_row[2] == 1.0
    assert rows[1]["kl"] > 1e-3
