"""Question sets as people and benchmarks keep them, made here in small."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.errors import BatchError
from batch.evaluation.data import Question, demo_set, read_set


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def asked(path: Path) -> list[tuple[str, str, str]]:
    return [(q.video.name, q.question, q.answer) for q in read_set(path).questions]


def test_a_file_of_ones_own_names_videos_beside_it(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "a.mp4"), touch(tmp_path / "more" / "b.mp4")
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"video": "a.mp4", "question": "who ?", "answer": "the dog"},
        "",
        {"video": "more/b.mp4", "question": "how many ?", "answer": "2", "options": ["1", "2"]},
        {"video": str(first), "question": "where ?", "answer": "outside", "kind": "place"},
    )
    found = read_set(path)
    assert found.name == "mine"
    assert found.questions == (
        Question(video=first, question="who ?", answer="the dog"),
        Question(video=first, question="where ?", answer="outside", kind="place"),
        Question(video=second, question="how many ?", answer="2", options=("1", "2")),
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"video": "a.mp4", "question": "who ?"}', "row 2 has no field 'answer'"),
        ('{"video": "a.mp4", "question": "who ?", "answer": "b", "opt": []}', "row 2.*'opt'"),
        ('{"video": "a.mp4", "question": " ", "answer": "b"}', "row 2.*empty question"),
        ('{"video": "a.mp4", "question": "w", "answer": "b", "options": ["c"]}', "none of the opt"),
        ('{"video": "a.mp4", ', "row 2"),
        ('["a.mp4"]', "row 2"),
        ('{"video": "a.mp4", "question": "who ?", "answer": 3}', "row 2"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    touch(tmp_path / "a.mp4")
    good = {"video": "a.mp4", "question": "who ?", "answer": "the dog"}
    path = write_lines(tmp_path / "mine.jsonl", good, line)
    with pytest.raises(BatchError, match=rf"mine\.jsonl: .*{complaint}"):
        read_set(path)


def test_a_set_without_any_of_its_videos_is_refused_by_the_first(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "mine.jsonl", {"video": "gone.mp4", "question": "who ?", "answer": "the dog"}
    )
    with pytest.raises(BatchError, match=r"mine\.jsonl.*gone\.mp4"):
        read_set(path)


def test_videos_that_are_not_here_are_counted_and_their_questions_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"video": "gone.mp4", "question": "who ?", "answer": "the dog"},
        {"video": "gone.mp4", "question": "where ?", "answer": "here"},
        {"video": "a.mp4", "question": "who ?", "answer": "the cat"},
    )
    assert asked(path) == [("a.mp4", "who ?", "the cat")]
    assert read_set(path).absent == (tmp_path / "gone.mp4",)


def test_an_unknown_folder_is_refused_with_the_layouts_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"(?s)recognised.*jsonl.*Video-MME.*MVBench.*NExT.*Ego"):
        read_set(tmp_path)


def video_mme(folder: Path) -> None:
    rows = [
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Geography",
            "url": "https://example.org/watch?v=fFjv93ACGo8",
            "videoID": "fFjv93ACGo8",
            "question_id": "001-1",
            "task_type": "Counting Problem",
            "question": "Which is the most frequent?",
            "options": ["A. Apples.", "B. Candles.", "C. A. Berries.", "D. The same."],
            "answer": "C",
        }
    ]
    (folder / "videomme").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "videomme/test-00000-of-00001.parquet")


@pytest.mark.parametrize("video", ["data/fFjv93ACGo8.mp4", "video/fFjv93ACGo8.mkv"])
def test_video_mme_is_read_from_its_folder(tmp_path: Path, video: str) -> None:
    video_mme(tmp_path)
    touch(tmp_path / video)
    (question,) = read_set(tmp_path).questions
    assert question == Question(
        video=tmp_path / video,
        question="Which is the most frequent?",
        answer="A. Berries.",
        options=("Apples.", "Candles.", "A. Berries.", "The same."),
        kind="Counting Problem",
    )


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    video_mme(tmp_path)
    (tmp_path / "videomme/test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(BatchError, match=r"test-00000-of-00001\.parquet.*Parquet"):
        read_set(tmp_path)
    (tmp_path / "videomme/test-00000-of-00001.parquet").unlink()
    (tmp_path / "json").mkdir()
    (tmp_path / "json/action_count.json").write_text("[{")
    with pytest.raises(BatchError, match=r"action_count\.json.*JSON"):
        read_set(tmp_path)


@pytest.mark.parametrize("root", ["", "video", "data0613"])
def test_mvbench_is_read_with_parts_where_a_question_is_about_one(
    tmp_path: Path, root: str
) -> None:
    candidates = ["The table.", "The tidied.", "The cup."]
    part = {"video": "ZS9XR.mp4", "start": 11.3, "end": 17.9, "accurate_start": 12.1}
    write_json(
        tmp_path / "json/action_sequence.json",
        [{**part, "question": "What first?", "candidates": candidates, "answer": "The table."}],
    )
    write_json(
        tmp_path / "json/moving_count.json",
        [{"video": "video_1.mp4", "question": "Many?", "candidates": ["3", "1"], "answer": "1"}],
    )
    touch(tmp_path / root / "clevrer/video_validation/video_1.mp4")
    touch(tmp_path / root / "star/Charades_v1_480/ZS9XR.mp4")
    assert asked(tmp_path) == [("video_1.mp4", "Many?", "1")]
    cut = touch(tmp_path / root / "star/Charades_segment/ZS9XR_11.3_17.9.mp4")
    first = read_set(tmp_path).questions[0]
    assert first == Question(
        video=cut,
        question="What first?",
        answer="The table.",
        options=tuple(candidates),
        kind="action_sequence",
    )


def test_mvbench_finds_videos_that_were_converted_to_mp4(tmp_path: Path) -> None:
    row = {"video": "166583.webm", "question": "?", "candidates": ["a", "b"], "answer": "b"}
    write_json(tmp_path / "json/action_antonym.json", [row])
    touch(tmp_path / "ssv2_video_mp4/166583.mp4")
    assert asked(tmp_path) == [("166583.mp4", "?", "b")]


def next_qa(folder: Path, split: str, question: str) -> Path:
    row = {
        "video": "4010069381",
        "frame_count": "369",
        "width": "640",
        "height": "480",
        "question": question,
        "answer": "2",
        "qid": "6",
        "type": "CH",
        **{f"a{place}": option for place, option in enumerate("vwxyz")},
    }
    with (folder / split).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    write_json(folder / "map_vid_vidorID.json", {"4010069381": "1164/4010069381"})
    return folder / split


@pytest.mark.parametrize("video", ["1164/4010069381.mp4", "4010069381.mp4"])
def test_next_qa_is_read_from_its_folder(tmp_path: Path, video: str) -> None:
    next_qa(tmp_path, "val.csv", "how do the two men play")
    touch(tmp_path / "NExTVideo" / video)
    assert read_set(tmp_path).questions == (
        Question(
            video=tmp_path / "NExTVideo" / video,
            question="how do the two men play",
            answer="x",
            options=("v", "w", "x", "y", "z"),
            kind="CH",
        ),
    )


def test_questions_of_next_qa_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    split = next_qa(tmp_path, "val.csv", "how do the two men play")
    split.write_bytes(split.read_bytes().replace(b"men", b"m\xe4nner"))
    with pytest.raises(BatchError, match=r"val\.csv: cannot be read as CSV: 'utf-8' codec"):
        read_set(tmp_path)


def test_two_splits_of_next_qa_are_not_mixed(tmp_path: Path) -> None:
    next_qa(tmp_path, "val.csv", "how")
    chosen = next_qa(tmp_path, "test.csv", "why")
    touch(tmp_path / "NExTVideo/4010069381.mp4")
    with pytest.raises(BatchError, match=r"give one.*val\.csv.*test\.csv"):
        read_set(tmp_path)
    assert asked(chosen) == [("4010069381.mp4", "why", "x")]


def test_egoschema_asks_what_has_a_public_answer(tmp_path: Path) -> None:
    rows = [
        {
            "q_uid": uid,
            "google_drive_id": "15yGB0TI5zG5usdQZOXn0CrRzkJNB0gMl",
            "question": f"What is the aim of {uid}?",
            **{f"option {place}": f"option {place} of {uid}" for place in range(5)},
        }
        for uid in ("0074f737", "001934bb")
    ]
    write_json(tmp_path / "questions.json", rows)
    write_json(tmp_path / "subset_answers.json", {"0074f737": 3})
    touch(tmp_path / "videos/0074f737.mp4")
    touch(tmp_path / "videos/001934bb.mp4")
    assert asked(tmp_path) == [
        ("0074f737.mp4", "What is the aim of 0074f737?", "option 3 of 0074f737")
    ]


def test_a_demo_set_is_the_same_again_and_draws_no_film_twice(tmp_path: Path) -> None:
    first = demo_set("easy", tmp_path, videos=2, seed=9)
    films = {film: film.stat().st_mtime_ns for film in tmp_path.iterdir()}
    assert sorted(films) == sorted({question.video for question in first.questions})
    assert demo_set("easy", tmp_path, videos=2, seed=9) == first
    assert {film: film.stat().st_mtime_ns for film in tmp_path.iterdir()} == films
    assert demo_set("easy", tmp_path, videos=1, seed=10).questions[0] not in first.questions


def test_an_unknown_variant_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"'foggy'.*plain.*slow-drift"):
        demo_set("foggy", tmp_path, videos=1, seed=9)
