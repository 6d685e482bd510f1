"""Published benchmarks as rows of a JSONL question set, from local copies as published.

No model has been run on these four yet. Subtitles are not read: the models see pictures alone.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError

Row = dict[str, Any]

_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)
_VIDOR = "map_vid_vidorID.json"
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
    convert: Callable[[Path, Path, Any], Row | None]
    """The row of an entry of a file, its video relative to the set's folder; None for no row."""


def load(file: Path) -> list[Any]:
    """Entries of a file; those of JSON Lines are lines.

    Raises:
        BatchError: it cannot be read or parsed.
    """
    try:
        if file.suffix == ".jsonl":
            return list(file.read_bytes().splitlines())
        if file.suffix == ".parquet":
            return pq.read_table(file).to_pylist()
        if file.suffix == ".csv":
            with file.open(encoding="utf-8", newline="") as lines:
                return list(csv.DictReader(lines))
        entries: list[Any] = json.loads(file.read_text(encoding="utf-8"))
        return entries
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        kind = {".csv": "CSV", ".parquet": "Parquet"}.get(file.suffix, "JSON")
        raise BatchError(f"{file}: cannot be read as {kind}: {error}") from error


def _jsonl(root: Path, file: Path, line: bytes) -> Row | None:
    row: Row | None = json.loads(line) if line.strip() else None
    return row


def _video_mme(root: Path, file: Path, fields: Row) -> Row:
    """Source: arXiv 2405.21075; the dataset's own repository, whose archives unpack to `data`."""
    options = _plain_options(fields["options"])
    suffixes = (".mp4", ".MP4", ".mkv")
    names = [f"{fields['videoID']}{suffix}" for suffix in suffixes]
    return {
        "video": _first_there(root, ("data", "video", "videos"), names),
        "question": fields["question"],
        "answer": options["ABCD".index(fields["answer"])],
        "options": options,
        "kind": fields["task_type"],
    }


def _mvbench(root: Path, file: Path, fields: Row) -> Row:
    """Source: arXiv 2311.17005; the folders of the dataset's own repository, unpacked.

    Tasks about a part of a video are read where the cut parts are (the repository's revision
    `video` has them), for the answer may be wrong of the whole.
    """
    name = Path(fields["video"])
    names = [name, name.with_suffix(".mp4")]
    if "start" in fields:
        names.append(name.with_name(f"{name.stem}_{fields['start']}_{fields['end']}.mp4"))
    folders = [Path(base, own) for base in _MVBENCH_ROOTS for own in _MVBENCH_FOLDERS[file.stem]]
    return {
        "video": _first_there(root, folders, names),
        "question": fields["question"],
        "answer": fields["answer"].strip(),
        "options": _plain_options(fields["candidates"]),
        "kind": file.stem,
    }


def _next_qa_files(path: Path) -> list[Path]:
    splits = [path] if path.suffix == ".csv" else [path / "val.csv", path / "test.csv"]
    files = [file for file in splits if file.exists() and (file.parent / _VIDOR).exists()]
    if len(files) > 1:
        raise BatchError(f"{path}: two splits are here; give one of them: {files[0]} or {files[1]}")
    return files


def _next_qa(root: Path, file: Path, fields: Row) -> Row:
    """Source: arXiv 2105.08276; the annotations' own repository, multiple choice."""
    options = [fields[f"a{place}"].strip() for place in range(5)]
    name = fields["video"]
    names = [f"{_table(root / _VIDOR)[name]}.mp4", f"{name}.mp4"]
    return {
        "video": _first_there(root, ["NExTVideo"], names),
        "question": fields["question"],
        "answer": options[int(fields["answer"])],
        "options": options,
        "kind": fields["type"],
    }


def _egoschema_files(path: Path) -> list[Path]:
    files = [path / "questions.json", path / "subset_answers.json"]
    return files[:1] if all(file.exists() for file in files) else []


def _egoschema(root: Path, file: Path, fields: Row) -> Row | None:
    """Source: arXiv 2308.09126; the dataset's own repository. Most answers are not public."""
    name = fields["q_uid"]
    answers = _table(root / "subset_answers.json")
    if name not in answers:
        return None
    options = [fields[f"option {place}"].strip() for place in range(5)]
    return {
        "video": f"videos/{name}.mp4",
        "question": fields["question"],
        "answer": options[answers[name]],
        "options": options,
    }


@cache
def _table(file: Path) -> Row:
    """A file that all rows of another one look things up in."""
    table: Any = load(file)
    return dict(table)


def _plain_options(options: Iterable[str]) -> list[str]:
    """Options without the letters "A. ", "B. ", ... if all of them have theirs."""
    listed = [option.strip() for option in options]
    parts = [_LETTERED.fullmatch(option) for option in listed]
    lettered = [part for part in parts if part is not None]
    if [part[1] for part in lettered] != [chr(ord("A") + place) for place in range(len(listed))]:
        return listed
    return [part[2] for part in lettered]


def _first_there(root: Path, folders: Sequence[str | Path], names: Sequence[str | Path]) -> Path:
    """The first file that exists by one of these names in one of these folders, or else of all."""
    places = [Path(folder, name) for folder in folders for name in names]
    return next((place for place in places if (root / place).exists()), places[0])


LAYOUTS = (
    Layout(
        "NAME.jsonl with video, question, answer, and perhaps options and kind",
        lambda path: [path] if path.is_file() and path.suffix == ".jsonl" else [],
        _jsonl,
    ),
    Layout(
        "Video-MME: videomme/test-*.parquet and data/VIDEO.mp4",
        lambda path: sorted(path.glob("videomme/test-*.parquet")),
        _video_mme,
    ),
    Layout(
        "MVBench: json/TASK.json and the folders of videos, here or in video/",
        lambda path: [
            file for task in _MVBENCH_FOLDERS if (file := path / "json" / f"{task}.json").exists()
        ],
        _mvbench,
    ),
    Layout(
        "NExT-QA: val.csv or test.csv, map_vid_vidorID.json, and NExTVideo/1234/VIDEO.mp4",
        _next_qa_files,
        _next_qa,
    ),
    Layout(
        "EgoSchema: questions.json, subset_answers.json and videos/VIDEO.mp4",
        _egoschema_files,
        _egoschema,
    ),
)
"""Layouts that are known, the first that fits counts."""
