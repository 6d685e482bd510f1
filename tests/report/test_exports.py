"""Scenes and evidence as other tools read them."""

import csv
import io
import json

from batch.report.exports import evidence_cues, scene_cues, write
from batch.report.pages import AnsweredVideo, ShownAnswer
from tests.report.videos import drawn

ANSWERED = AnsweredVideo(
    video=drawn(),
    answers=[
        ShownAnswer(question="who?\n\n--> <b>", text="Tom & Ann", evidence=[(5.0, 7.0)]),
        ShownAnswer(question="when?", text="first", evidence=[(0.0, 1.5)]),
    ],
)


def test_scenes_follow_each_other_without_gaps_in_csv() -> None:
    video = drawn()
    rows = list(csv.DictReader(io.StringIO(write(video, scene_cues(video), "csv"))))
    assert [(row["start_s"], row["stop_s"]) for row in rows] == [
        ("0.000", "4.000"),
        ("4.000", "8.000"),
    ]
    assert (rows[0]["video"], rows[0]["label"]) == ("drawn.mp4", "scene")
    assert [(row["first_frame"], row["last_frame"]) for row in rows] == [("1", "4"), ("5", "8")]


def test_cues_of_webvtt_are_in_order_of_time_and_hold_no_marks() -> None:
    assert write(ANSWERED.video, evidence_cues(ANSWERED), "vtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nwhen? first\n\n"
        "00:00:05.000 --> 00:00:07.000\nwho? --&gt; &lt;b&gt; Tom &amp; Ann\n"
    )


def test_label_studio_gets_a_task_with_a_region_for_each_time() -> None:
    (task,) = json.loads(write(ANSWERED.video, evidence_cues(ANSWERED), "json"))
    assert task["data"] == {"video": "drawn.mp4"}
    (prediction,) = task["predictions"]
    assert [region["value"] for region in prediction["result"]] == [
        {"ranges": [{"start": 1, "end": 2}], "timelinelabels": ["evidence"]},
        {"ranges": [{"start": 6, "end": 7}], "timelinelabels": ["evidence"]},
    ]
    assert len({region["id"] for region in prediction["result"]}) == 2
    assert prediction["result"][0]["meta"] == {"text": ["when?  first"]}
