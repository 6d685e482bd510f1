"""Questions to an archive as a job: one table, whatever ends the runs that make it."""

import csv
import json
import multiprocessing
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.answering import VideoAnswerer
from batch.archive import asking
from batch.archive.answers import SCHEMA
from batch.archive.asking import plan_questions
from batch.archive.catalogue import catalogue_rows
from batch.archive.questions import Asked, read_questions
from batch.archive.store import Store
from batch.cli import main
from batch.errors import BatchError
from jobs.runs import Run
from jobs.shards import Shard
from tests import clips
from tests.archive.archives import draw_video
from tests.archive.conftest import IndexedArchive
from tests.cli.running import batch, objects, succeed

QUESTIONS = [f"what is the red star doing {word} ?" for word in ("", "a", "b", "c")]
STEADY = ("question", "video", "path", "answer", "tokens", "complete", "evidence", "error")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("\n\n".join(QUESTIONS))
    return path


def command(out: Path, questions: Path, table: Path, *words: object) -> tuple[object, ...]:
    asked = ("--questions", questions, "--out", table, "--max-new-tokens", 3)
    return ("answer", out, *asked, *words)


def rows_of(table: Path) -> list[dict[str, Any]]:
    return pq.read_table(table).to_pylist()


def steady(table: Path) -> list[list[object]]:
    """All of a table but times."""
    return [[row[name] for name in STEADY] for row in rows_of(table)]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(asking, "load_model", refuse)


def test_every_question_of_every_video_is_a_row_and_the_same_in_each_format(
    copied_out: Path, questions: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    table = tmp_path / "answers.parquet"
    assert succeed(*command(copied_out, questions, table)) == [str(table)]
    assert pq.read_schema(table).equals(SCHEMA)
    rows = rows_of(table)
    videos = list(dict.fromkeys(row["video"] for row in rows))
    expected = [(video, question) for video in videos for question in QUESTIONS]
    assert [(row["video"], row["question"]) for row in rows] == expected
    assert len(videos) == 3
    printed = objects(succeed("answer", copied_out, "-q", QUESTIONS[0], "--max-new-tokens", 3))
    for line in printed:
        (row,) = [row for row in rows if row["video"] == line["video"]][:1]
        (answer,) = line["answers"]
        assert (row["answer"], row["evidence"]) == (answer["answer"], answer["evidence"])
        assert row["likelihood"] == pytest.approx(answer["likelihood"], abs=1e-4)
        assert row["evidence_samples"]
    request.getfixturevalue("no_model")  # the others are written from what is recorded
    as_csv, as_jsonl = tmp_path / "new" / "answers.csv", tmp_path / "answers.jsonl"
    succeed(*command(copied_out, questions, as_csv))
    succeed(*command(copied_out, questions, as_jsonl))
    assert objects(as_jsonl.read_text().splitlines()) == rows
    with as_csv.open(newline="") as file:
        for row, got in zip(rows, csv.DictReader(file), strict=True):
            assert got["answer"] == row["answer"]
            assert json.loads(got["evidence"]) == row["evidence"]
    assert not list(tmp_path.glob(".*"))


def test_only_what_is_new_is_asked(copied_out: Path, questions: Path, tmp_path: Path) -> None:
    table = tmp_path / "answers.parquet"
    succeed(*command(copied_out, questions, table))
    before = rows_of(table)
    questions.write_text("\n".join([*QUESTIONS, "what ?"]))
    result = batch(*command(copied_out, questions, table))
    assert "3 answered, 12 skipped; " in result.stderr
    assert [row for row in rows_of(table) if row["question"] != "what ?"] == before
    result = batch(*command(copied_out, questions, table, "--scope", "retrieve"))
    assert "15 answered; " in result.stderr


def test_a_question_goes_to_the_videos_that_its_row_names(
    indexed: IndexedArchive, copied_out: Path, tmp_path: Path
) -> None:
    file = tmp_path / "questions.csv"
    file.write_text("question,video\na b ?,*/trip/*\nc d ?,\n")
    succeed(*command(copied_out, file, tmp_path / "out.parquet"))
    rows = rows_of(tmp_path / "out.parquet")
    assert [row["path"] for row in rows if row["question"] == "a b ?"] == [
        str(indexed.archive / "2024" / "trip" / "b.mkv")
    ]
    assert len(rows) == 4
    pq.write_table(pa.table({"question": ["a ?"], "video": [rows[0]["video"]]}), file)
    file = file.rename(tmp_path / "questions.parquet")
    succeed(*command(copied_out, file, tmp_path / "out.parquet"))
    assert [row["video"] for row in rows_of(tmp_path / "out.parquet")] == [rows[0]["video"]]


def test_videos_are_chosen_by_columns_of_the_catalogue(indexed: IndexedArchive) -> None:
    rows = objects(succeed("answer", indexed.out, "-q", "a ?", "--max-new-tokens", 1))
    store = Store(indexed.out)
    facts = {row["video"]: row for row in catalogue_rows(store, store.all_caches()[-1])}
    longest = max(facts[row["video"]]["duration_s"] for row in rows)
    (one, *_) = [row for row in rows if facts[row["video"]]["duration_s"] == longest]

    def chosen(*wanted: str) -> list[str]:
        plan = plan_questions(store, store.all_caches()[-1], [Asked(question="a ?")], wanted)
        return [wanted.video for wanted in plan]

    everything = [row["video"] for row in rows]
    assert one["video"] in chosen(f"duration_s>={longest}")
    assert chosen("duration_s>0", "nothing*") == chosen("tool=*") == everything
    assert chosen("finished>=2020-01") == chosen("video_bytes<1e12") == everything
    assert chosen(f"video={one['video']}") == chosen(one["video"]) == [one["video"]]
    for nothing in ("duration_s>one", "paths=a", "reason=*", f"duration_s>{longest}", "dur>0"):
        with pytest.raises(BatchError, match=re.escape(f"none fits --match '{nothing}'")):
            chosen(nothing)


def test_damaged_and_foreign_caches_cost_their_rows_until_they_are_mended(
    indexed: IndexedArchive, copied_out: Path, questions: Path, tmp_path: Path
) -> None:
    table, caches = tmp_path / "answers.parquet", sorted(copied_out.rglob("*.safetensors"))
    damaged, foreign, sound = [path for path in caches if "calibration" not in path.name]
    clips.truncate(damaged, keep=0.9)
    foreign.write_bytes(sound.read_bytes())
    result = batch(*command(copied_out, questions, table))
    assert result.exit_code == 3
    assert f"error: {damaged}: is truncated" in result.stderr
    assert f"error: {foreign}: holds video {sound.stem[:12]}, its record" in result.stderr
    for row in rows_of(table):
        assert (row["answer"] is None) == (row["error"] is not None) == (row["video"] != sound.stem)
    for path in (damaged, foreign):
        path.write_bytes((indexed.out / path.relative_to(copied_out)).read_bytes())
    result = batch(*command(copied_out, questions, table))
    assert (result.exit_code, "8 answered, 4 skipped; " in result.stderr) == (0, True)
    assert not any(row["error"] for row in rows_of(table))


def test_a_question_that_cannot_be_asked_costs_its_own_rows(
    copied_out: Path, tmp_path: Path
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a <image> ?"}\n{"question": "b ?"}\n')
    result = batch(*command(copied_out, file, tmp_path / "out.jsonl"))
    assert result.exit_code == 3
    rows = objects((tmp_path / "out.jsonl").read_text().splitlines())
    assert [row["error"] is None for row in rows] == [False, True] * 3
    assert "marks of its own" in rows[0]["error"]


def test_only_a_line_feed_ends_a_row_of_json(tmp_path: Path) -> None:
    file, text = tmp_path / "questions.jsonl", "a\u2028b\x85c ?"
    file.write_text(json.dumps({"question": text}, ensure_ascii=False) + "\r\n", newline="")
    assert [one.question for one in read_questions(file)] == [text]


def test_what_was_answered_when_a_job_is_stopped_is_not_asked_again(
    copied_out: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, table = VideoAnswerer.judged, tmp_path / "answers.parquet"

    def stopped(self: VideoAnswerer, asked: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return judged(self, asked)

    with monkeypatch.context() as patch:
        patch.setattr(VideoAnswerer, "judged", stopped)
        result = batch(*command(copied_out, questions, table))
    assert (result.exit_code, table.exists()) == (75, False)
    assert "4 answered, 8 not asked yet; " in result.stderr
    assert "8 answered, 4 skipped; " in batch(*command(copied_out, questions, table)).stderr


def test_what_was_answered_when_a_job_dies_within_a_video_is_not_asked_again(
    copied_out: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command(copied_out, questions, tmp_path / "answers.parquet", "--batch-size", 3)
    judged = VideoAnswerer.judged

    def dies(self: VideoAnswerer, asked: Any) -> Any:
        if len(asked) < 3:  # the second batch of the first video
            raise ZeroDivisionError
        return judged(self, asked)

    with monkeypatch.context() as patch:
        patch.setattr(VideoAnswerer, "judged", dies)
        with pytest.raises(ZeroDivisionError):
            batch(*words)
    assert "9 answered, 3 skipped; " in batch(*words).stderr


def test_shards_share_the_work_and_the_last_writes_the_table(
    copied_out: Path, questions: Path, tmp_path: Path
) -> None:
    table = tmp_path / "answers.parquet"
    videos = [path.stem for path in copied_out.rglob("caches/*/*.safetensors")]
    count = next(n for n in range(2, 9) if not all(Shard(index=0, count=n).owns(v) for v in videos))
    whole = batch(*command(copied_out, questions, tmp_path / "whole.parquet", "--scope", "whole"))
    for index in range(count):
        assert not table.exists()
        shard = ("--shard", f"{index}/{count}", "--scope", "whole")
        # Other settings than before, so that nothing is answered yet.
        result = batch(*command(copied_out, questions, table, *shard, "--budget-tokens", 4095))
        assert result.exit_code == 0, result.stderr
    assert whole.exit_code == 0
    assert steady(table) == steady(tmp_path / "whole.parquet")


def test_of_two_runs_at_once_the_second_leaves_all_to_the_first(
    copied_out: Path, questions: Path, tmp_path: Path
) -> None:
    words = command(copied_out, questions, tmp_path / "answers.parquet")
    succeed(*words)
    (folder,) = (copied_out / "answers").iterdir()
    with Run.begin(copied_out, {f"answer {folder.name}": Shard()}):
        result = batch(*words)
    assert (result.exit_code, result.stdout) == (75, "")
    assert "is at work on shard 0/1 of the same since" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.txt", "\n \n", "holds no question"),
        ("x.csv", "Question\na\n", "row 2: got Question, expected question and perhaps video"),
        ("x.jsonl", '{"question": 3}\n', "row 1: question: got 3, expected some text"),
        ("x.jsonl", '{"question": "\\ud800"}', r"question: got '\ud800', expected some text"),
        ("x.jsonl", "{", "cannot be read as jsonl"),
        ("x.parquet", "PAR1", "cannot be read as parquet"),
        ("x.xlsx", "a", "got .xlsx, expected .txt, .csv, .jsonl, .parquet"),
        ("x.csv", "question,video\na,*.none\n", "fits '*.none' of 'a'"),
    ],
)
def test_a_file_without_questions_is_named(
    indexed: IndexedArchive, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    result = batch(*command(indexed.out, tmp_path / name, tmp_path / "out.csv"))
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_what_a_scheduler_gets_of_a_job_is_its_own_command_line(
    indexed: IndexedArchive, questions: Path, tmp_path: Path
) -> None:
    words = ("--engine", "slurm", "--tasks", 3, "--print")
    text = "\n".join(succeed(*command(indexed.out, questions, tmp_path / "a.csv", *words)))
    assert "#SBATCH --array=0-2\n" in text
    assert "#SBATCH --gres=gpu:1\n" in text
    assert f"-m batch answer {indexed.out} --questions {questions} --out {tmp_path}/a.csv" in text
    assert '--max-new-tokens 3 --shard "$SLURM_ARRAY_TASK_ID/3"' in text
    result = batch("answer", indexed.out, "-q", "a", "--engine", "ray")
    assert (result.exit_code, "--engine goes with --out, and" in result.stderr) == (2, True)


def _run(words: tuple[object, ...]) -> None:
    main([str(word) for word in words])


def kill_often(words: tuple[object, ...], times: int, within_s: float) -> int:
    """Run a command again and again until it is through; kill it so often, at random moments."""
    context, moments, killed = multiprocessing.get_context("forkserver"), random.Random(1), 0
    while True:
        process = context.Process(target=_run, args=(words,))
        process.start()
        process.join(moments.uniform(0, within_s) if killed < times else 300)
        if process.exitcode is not None:
            assert process.exitcode == 0
            return killed
        process.kill()
        process.join()
        killed += 1


def compare_killed(out: Path, questions: Path, tmp_path: Path, times: int) -> None:
    """A job that is killed gives each row once, as one that is not; other settings tell them."""
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    began_s = time.monotonic()
    kill_often(command(out, questions, whole), 0, 0)
    within_s = time.monotonic() - began_s
    words = command(out, questions, killed, "--budget-tokens", 4095)
    assert kill_often(words, times, within_s) > 0
    assert steady(killed) == steady(whole)
    assert batch(*words).stderr.count("skipped") == 1
    assert not list(out.glob("runs/*/"))


def test_a_job_killed_again_and_again_loses_and_repeats_no_row(
    copied_out: Path, questions: Path, tmp_path: Path
) -> None:
    compare_killed(copied_out, questions, tmp_path, times=3)


@pytest.mark.long
def test_a_large_job_killed_ten_times_loses_and_repeats_no_row(model: Path, tmp_path: Path) -> None:
    for number in range(500):
        draw_video(tmp_path / "films" / f"{number}.mp4", seed=number, seconds=2)
    succeed("index", tmp_path / "films", "--out", tmp_path / "out", "--model", model)
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(f"what is a{' b' * number} ?" for number in range(20)))
    compare_killed(tmp_path / "out", questions, tmp_path, times=10)
    assert pq.read_metadata(tmp_path / "killed.parquet").num_rows == 500 * 20
