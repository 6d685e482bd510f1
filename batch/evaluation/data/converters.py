"""Published benchmarks as rows of a JSONL question set, from local copies as published.

No model has been run on these four yet. Subtitles are not read: the models see pictures alone.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError

Row = dict[str, Any]

_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)
_PLACES = range(5)
"""Of the options of NExT-QA and EgoSchema."""
_MVBENCH_ROOTS = ("", "video", "data0613")
_MVBENCH_FOLDERS = {
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "action_count": ("perception/videos",),
    "action_localization": ("sta/sta_video_segment",),
    "action_prediction": ("star/Charades_segment",),
    "action_sequence": ("star/Charades_segment",),
    "character_order": ("perception/videos",),
    "counterfactual_inference": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "moving_attribute": ("clevrer/video_validation",),
    "moving_count": ("clevrer/video_validation",),
    "moving_direction": ("clevrer/video_validation",),
    "object_existence": ("clevrer/video_validation",),
    "object_interaction": ("star/Charades_segment",),
    "object_shuffle": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "state_change": ("perception/videos",),
    "unexpected_action": ("FunQA_test/test",),
}
"""Where the videos of a task are."""


class Layout(NamedTuple):
    """How a question set lies on disk."""

    about: str
    files: Callable[[Path], list[Path]]
    """Files with questions at a path; none if it is something else."""
    load: Callable[[Path], Sequence[Any]]
    """Entries of a file. Raises BatchError where it cannot be parsed."""
    convert: Callable[[Path, Path, Any], Row | None]
    """The row of an entry in a file, its video relative to the set's folder; None for no row."""


def _jsonl_files(path: Path) -> list[Path]:
    return [path] if path.is_file() and path.suffix == ".jsonl" else []


def _jsonl_lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines()


def _jsonl_row(root: Path, file: Path, line: bytes) -> Row | None:
    row: Row | None = json.loads(line) if line.strip() else None
    return row


def _video_mme_files(path: Path) -> list[Path]:
    return sorted(path.glob("videomme/test-*.parquet"))


def _video_mme_row(root: Path, file: Path, fields: Row) -> Row:
    """Source: arXiv 2405.21075; the dataset's own repository, whose archives unpack to `data`."""
    options = _plain_options(fields["options"])
    name = fields["videoID"]
    videos = [
        f"{folder}/{name}{suffix}"
        for folder in ("data", "video", "videos")
        for suffix in (".mp4", ".MP4", ".mkv")
    ]
    return {
        "video": _first_there(root, videos),
        "question": fields["question"],
        "answer": options["ABCD".index(fields["answer"])],
        "options": options,
        "kind": fields["task_type"],
    }


def _mvbench_files(path: Path) -> list[Path]:
    files = [path / "json" / f"{task}.json" for task in _MVBENCH_FOLDERS]
    return [file for file in files if file.exists()]


def _mvbench_row(root: Path, file: Path, fields: Row) -> Row:
    """Source: arXiv 2311.17005; the folders of the dataset's own repository, unpacked.

    Tasks about a part of a video are read where the cut parts are (the repository's revision
    `video` has them), for the answer may be wrong of the whole.
    """
    name = Path(fields["video"])
    names = [name, name.with_suffix(".mp4")]
    if "start" in fields:
        names.append(name.with_name(f"{name.stem}_{fields['start']}_{fields['end']}.mp4"))
    folders = [f"{base}/{own}" for base in _MVBENCH_ROOTS for own in _MVBENCH_FOLDERS[file.stem]]
    videos = [f"{folder}/{name}".lstrip("/") for folder in folders for name in names]
    return {
        "video": _first_there(root, videos),
        "question": fields["question"],
        "answer": fields["answer"].strip(),
        "options": _plain_options(fields["candidates"]),
        "kind": file.stem,
    }


def _next_qa_files(path: Path) -> list[Path]:
    if path.suffix == ".csv":
        return [path] if (path.parent / "map_vid_vidorID.json").exists() else []
    splits = [path / "val.csv", path / "test.csv"]
    files = [split for split in splits if split.exists()]
    if not (path / "map_vid_vidorID.json").exists():
        return []
    if len(files) > 1:
        raise BatchError(f"{path}: two splits are here; give one of them: {files[0]} or {files[1]}")
    return files


def _next_qa_entries(file: Path) -> list[tuple[Row, Row]]:
    """Questions of a split, each with the map of videos to their places."""
    places = _json(file.parent / "map_vid_vidorID.json")
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [(fields, places) for fields in csv.DictReader(lines)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise BatchError(f"{file}: cannot be read as CSV: {error}") from error


def _next_qa_row(root: Path, file: Path, entry: tuple[Row, Row]) -> Row:
    """Source: arXiv 2105.08276; the annotations' own repository, multiple choice."""
    fields, places = entry
    options = [fields[f"a{place}"].strip() for place in _PLACES]
    name = fields["video"]
    videos = [f"NExTVideo/{places[name]}.mp4", f"NExTVideo/{name}.mp4"]
    return {
        "video": _first_there(root, videos),
        "question": fields["question"],
        "answer": options[int(fields["answer"])],
        "options": options,
        "kind": fields["type"],
    }


def _egoschema_files(path: Path) -> list[Path]:
    files = [path / "questions.json", path / "subset_answers.json"]
    return files[:1] if all(file.exists() for file in files) else []


def _egoschema_entries(file: Path) -> list[tuple[Row, Row]]:
    """All questions, each with the answers that are public."""
    answers = _json(file.parent / "subset_answers.json")
    return [(fields, answers) for fields in _json(file)]


def _egoschema_row(root: Path, file: Path, entry: tuple[Row, Row]) -> Row | None:
    """Source: arXiv 2308.09126; the dataset's own repository, videos as its script stores them."""
    fields, answers = entry
    name = fields["q_uid"]
    if name not in answers:
        return None
    options = [fields[f"option {place}"].strip() for place in _PLACES]
    return {
        "video": f"videos/{name}.mp4",
        "question": fields["question"],
        "answer": options[answers[name]],
        "options": options,
    }


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BatchError(f"{file}: cannot be read as JSON: {error}") from error


def _parquet(file: Path) -> list[Row]:
    try:
        return pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BatchError(f"{file}: cannot be read as Parquet: {error}") from error


def _plain_options(options: Iterable[str]) -> list[str]:
    """Options without the letters "A. ", "B. ", ... if all of them have theirs."""
    listed = [option.strip() for option in options]
    parts = [_LETTERED.fullmatch(option) for option in listed]
    lettered = [part for part in parts if part is not None]
    if [part[1] for part in lettered] != [chr(ord("A") + place) for place in range(len(listed))]:
        return listed
    return [part[2] for part in lettered]


def _first_there(root: Path, candidates: Sequence[str]) -> str:
    """The first of some paths that exists; the first of all if none does."""
    return next((path for path in candidates if (root / path).exists()), candidates[0])


LAYOUTS = (
    Layout(
        about="NAME.jsonl with video, question, answer, and perhaps options and kind",
        files=_jsonl_files,
        load=_jsonl_lines,
        convert=_jsonl_row,
    ),
    Layout(
        about="Video-MME: videomme/test-*.parquet and data/VIDEO.mp4",
        files=_video_mme_files,
        load=_parquet,
        convert=_video_mme_row,
    ),
    Layout(
        about="MVBench: json/TASK.json and the folders of videos, here or in video/",
        files=_mvbench_files,
        load=_json,
        convert=_mvbench_row,
    ),
    Layout(
        about="NExT-QA: val.csv or test.csv, map_vid_vidorID.json, and NExTVideo/1234/VIDEO.mp4",
        files=_next_qa_files,
        load=_next_qa_entries,
        convert=_next_qa_row,
    ),
    Layout(
        about="EgoSchema: questions.json, subset_answers.json and videos/VIDEO.mp4",
        files=_egoschema_files,
        load=_egoschema_entries,
        convert=_egoschema_row,
    ),
)
"""Layouts that are known, the first that fits counts."""
