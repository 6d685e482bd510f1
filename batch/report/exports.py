"""Scenes, and what answers rest on, for other tools: CSV, WebVTT, Label Studio. Knows no page.

README.md beside this file says what each format holds.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from batch.report.pages import AnsweredVideo
from batch.report.rendering import shown_name
from batch.report.videos import VideoReport
from batch.version import __version__

Format = Literal["csv", "vtt", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
NAMES: dict[Format, str] = {"csv": "CSV", "vtt": "WebVTT", "json": "Label Studio"}


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A stretch of a video, half-open, and what is to be said of it; `label` is its kind."""

    label: Literal["scene", "evidence"]
    start_s: float
    stop_s: float
    text: str


def scene_cues(video: VideoReport) -> list[Cue]:
    """A cue for each scene, without gaps."""
    return [
        Cue(label="scene", start_s=span.start_s, stop_s=span.stop_s, text=f"scene {number}")
        for number, span in enumerate(video.scenes, 1)
    ]


def evidence_cues(answered: AnsweredVideo) -> list[Cue]:
    """A cue for each time that an answer rests on, in order of time: its question and text."""
    cues = [
        Cue(
            label="evidence",
            start_s=start_s,
            stop_s=stop_s,
            text=f"{answer.question}  {answer.text}",
        )
        for answer in answered.answers
        for start_s, stop_s in answer.evidence
    ]
    return sorted(cues, key=lambda cue: cue.start_s)


def write(video: VideoReport, cues: Sequence[Cue], to: Format) -> str:
    """The text of a file with these cues about a video."""
    return {"csv": _csv, "vtt": _vtt, "json": _label_studio}[to](video, cues)


def _csv(video: VideoReport, cues: Sequence[Cue]) -> str:
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerow(["video", "label", "start_s", "stop_s", "first_frame", "last_frame", "text"])
    name = shown_name(video.manifest.video.name)
    for cue in cues:
        frames = _frames(video, cue)
        times = f"{cue.start_s:.3f}", f"{cue.stop_s:.3f}"
        rows.writerow([name, cue.label, *times, *frames, cue.text])
    return file.getvalue()


def _vtt(video: VideoReport, cues: Sequence[Cue]) -> str:
    """Source: WebVTT, W3C; a cue's text escapes & and <, and an empty line would end it."""
    parts = ["WEBVTT"]
    for cue in cues:
        text = " ".join(cue.text.split()).replace("&", "&amp;")
        text = text.replace("<", "&lt;").replace(">", "&gt;")
        parts.append(f"{_stamp(cue.start_s)} --> {_stamp(cue.stop_s)}\n{text}")
    return "\n\n".join(parts) + "\n"


def _stamp(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _label_studio(video: VideoReport, cues: Sequence[Cue]) -> str:
    """Source: Label Studio's JSON of tasks with predictions; regions of its TimelineLabels."""
    name = shown_name(video.manifest.video.name)
    result = [
        {
            "id": f"{cue.label}-{number}",
            "from_name": "labels",
            "to_name": "video",
            "type": "timelinelabels",
            "value": {
                "ranges": [dict(zip(("start", "end"), _frames(video, cue), strict=True))],
                "timelinelabels": [cue.label],
            },
            "meta": {"text": [cue.text]},
        }
        for number, cue in enumerate(cues, 1)
    ]
    prediction = {"model_version": f"sali-cache {__version__}", "result": result}
    return json.dumps([{"data": {"video": name}, "predictions": [prediction]}], indent=1) + "\n"


def _frames(video: VideoReport, cue: Cue) -> tuple[int, int]:
    """First and last frame of the file, counted from 1 as players do, from sample to sample."""
    frame = video.manifest.frame
    samples = video.samples_within(cue.start_s, cue.stop_s) or [len(frame) - 1]
    first, following = samples[0], samples[-1] + 1
    last = int(frame[following]) if following < len(frame) else int(frame[-1]) + 1
    return int(frame[first]) + 1, max(last, int(frame[first]) + 1)
