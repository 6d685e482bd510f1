"""Questions about videos, with their true answers: drawn films, files of one's own, benchmarks.

A line of one's own file is an object with `video`, relative to the file, `question` and `answer`,
and where wanted `options`, a list that holds the answer, and `kind`. Benchmarks are read from
local copies as published; no model has been run on these four yet. Subtitles are not read: the
models see pictures alone.
"""

import csv
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.demo.drawing import draw, write_clip
from batch.demo.questions import questions_about
from batch.errors import BatchError
from batch.evaluation.worlds.backgrounds import Backgrounds
from batch.evaluation.worlds.variants import KNOWN

_FIELDS = {"video", "question", "answer", "options", "kind"}
Fields = dict[str, Any]

_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)
_VIDOR = "map_vid_vidorID.json"
_EGO_ANSWERS = "subset_answers.json"
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


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a video and its true answer."""

    video: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    """What the answer is one of; empty if it is free."""
    kind: str = ""

    def __post_init__(self) -> None:
        for name in ("question", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"got an empty {name}")
        if self.options and self.answer not in self.options:
            raise ValueError(f"the answer {self.answer!r} is none of the options {self.options}")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions in order, those about one video side by side."""

    name: str
    questions: tuple[Question, ...]
    absent: tuple[Path, ...] = ()
    """Videos that were asked about and are not here; their questions are left out."""


class _Layout(NamedTuple):
    """How a question set lies on disk.

    - files: those with questions at a path; none if it is something else.
    - convert: the set's folder, a file and an entry of it to a question, if it asks one.
    """

    about: str
    files: Callable[[Path], list[Path]]
    convert: Callable[[Path, Path, Any], Question | None]


def demo_set(
    variant: str,
    folder: Path,
    *,
    videos: int,
    seed: int,
    backgrounds: Backgrounds | None = None,
) -> QuestionSet:
    """Film demo worlds and ask all that can be asked about them.

    The same arguments give the same films and questions; a film that is there stays.

    Args:
        seed: 0 trained the model and 1 is the demo.
        backgrounds: clips to draw over; captions, which name a drawn ground, are not asked then.

    Raises:
        BatchError: no such variant.
    """
    if variant not in KNOWN:
        raise BatchError(f"got the variant {variant!r}, there are {', '.join(KNOWN)}")
    folder.mkdir(parents=True, exist_ok=True)
    ground = "" if backgrounds is None else " over clips"
    drawn = draw if backgrounds is None else backgrounds.draw
    questions = []
    for number in range(videos):
        rng = np.random.default_rng([seed, number])
        world = KNOWN[variant].random_world(rng)
        film = folder / f"{variant}{ground.replace(' ', '-')}-{seed}-{number}.mp4"
        if not film.exists():
            unfinished = film.with_name(f".{film.stem}.tmp.mp4")
            write_clip(world, unfinished, drawn=drawn)
            unfinished.replace(film)
        questions += [
            Question(video=film, question=one.text, answer=one.answer, kind=one.kind)
            for one in questions_about(world, rng)
            if backgrounds is None or one.kind != "caption"
        ]
    return QuestionSet(name=f"demo {variant}{ground}", questions=tuple(questions))


def read_set(path: Path) -> QuestionSet:
    """Read a JSONL file or the local folder of a benchmark.

    Raises:
        BatchError: no layout that is known, a broken file, or none of its videos is there.
    """
    for layout in _LAYOUTS:
        files = layout.files(path)
        if files:
            return _gather(path, _questions(path, files, layout))
    layouts = "".join(f"\n  {layout.about}" for layout in _LAYOUTS)
    raise BatchError(f"{path}: no question set is recognised here; known layouts:{layouts}")


def _questions(path: Path, files: list[Path], layout: _Layout) -> Iterator[Question]:
    root = path if path.is_dir() else path.parent
    for file in files:
        for number, fields in enumerate(_load(file), start=1):
            try:
                question = layout.convert(root, file, fields)
            except KeyError as error:
                raise BatchError(f"{file}: row {number} has no field {error}") from error
            except (ValueError, TypeError, IndexError, AttributeError) as error:
                raise BatchError(f"{file}: row {number}: {error}") from error
            if question is not None:
                yield question


def _gather(path: Path, questions: Iterator[Question]) -> QuestionSet:
    here: dict[Path, list[Question]] = {}
    absent: dict[Path, list[Question]] = {}
    for question in questions:
        where = here if question.video.exists() else absent
        where.setdefault(question.video, []).append(question)
    if not here:
        missing = f"; the first is not at {next(iter(absent))}" if absent else ""
        raise BatchError(f"{path}: no question about a video that is here{missing}")
    kept = tuple(question for own in here.values() for question in own)
    return QuestionSet(name=path.stem, questions=kept, absent=tuple(absent))


def _load(file: Path) -> list[Any]:
    """Entries of a file; those of JSON Lines are lines."""
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


def _jsonl(root: Path, file: Path, line: bytes) -> Question | None:
    if not line.strip():
        return None
    row = json.loads(line)
    unknown = set(row) - _FIELDS
    if unknown:
        raise ValueError(f"got the fields {sorted(unknown)}, known are {sorted(_FIELDS)}")
    return Question(
        video=root / row["video"],
        question=row["question"],
        answer=row["answer"],
        options=tuple(row.get("options", ())),
        kind=row.get("kind", ""),
    )


def _video_mme(root: Path, file: Path, fields: Fields) -> Question:
    """Source: arXiv 2405.21075; the dataset's own repository, whose archives unpack to `data`."""
    options = _plain_options(fields["options"])
    names = [f"{fields['videoID']}{suffix}" for suffix in (".mp4", ".MP4", ".mkv")]
    return Question(
        video=_first_there(root, ("data", "video", "videos"), names),
        question=fields["question"],
        answer=options["ABCD".index(fields["answer"])],
        options=options,
        kind=fields["task_type"],
    )


def _mvbench(root: Path, file: Path, fields: Fields) -> Question:
    """Source: arXiv 2311.17005; the folders of the dataset's own repository, unpacked.

    Tasks about a part of a video are read where the cut parts are (the repository's revision
    `video` has them), for the answer may be wrong of the whole.
    """
    name = Path(fields["video"])
    names = [name, name.with_suffix(".mp4")]
    if "start" in fields:
        names.append(name.with_name(f"{name.stem}_{fields['start']}_{fields['end']}.mp4"))
    folders = [Path(base, own) for base in _MVBENCH_ROOTS for own in _MVBENCH_FOLDERS[file.stem]]
    return Question(
        video=_first_there(root, folders, names),
        question=fields["question"],
        answer=fields["answer"].strip(),
        options=_plain_options(fields["candidates"]),
        kind=file.stem,
    )


def _next_qa_files(path: Path) -> list[Path]:
    splits = [path] if path.suffix == ".csv" else [path / "val.csv", path / "test.csv"]
    files = [file for file in splits if file.exists() and file.with_name(_VIDOR).exists()]
    if len(files) > 1:
        raise BatchError(f"{path}: two splits are here; give one of them: {files[0]} or {files[1]}")
    return files


def _next_qa(root: Path, file: Path, fields: Fields) -> Question:
    """Source: arXiv 2105.08276; the annotations' own repository, multiple choice."""
    options = tuple(fields[f"a{place}"].strip() for place in range(5))
    name = fields["video"]
    names = [f"{_table(root / _VIDOR)[name]}.mp4", f"{name}.mp4"]
    return Question(
        video=_first_there(root, ["NExTVideo"], names),
        question=fields["question"],
        answer=options[int(fields["answer"])],
        options=options,
        kind=fields["type"],
    )


def _egoschema(root: Path, file: Path, fields: Fields) -> Question | None:
    """Source: arXiv 2308.09126; the dataset's own repository. Most answers are not public."""
    name = fields["q_uid"]
    answers = _table(root / _EGO_ANSWERS)
    if name not in answers:
        return None
    options = tuple(fields[f"option {place}"].strip() for place in range(5))
    return Question(
        video=root / f"videos/{name}.mp4",
        question=fields["question"],
        answer=options[answers[name]],
        options=options,
    )


@cache
def _table(file: Path) -> Fields:
    return dict(_load(file))


def _plain_options(options: Iterable[str]) -> tuple[str, ...]:
    """Take the letters "A. ", "B. ", ... away if all options have theirs."""
    listed = tuple(option.strip() for option in options)
    parts = [part for option in listed if (part := _LETTERED.fullmatch(option))]
    has_letters = [part[1] for part in parts] == list(string.ascii_uppercase[: len(listed)])
    return tuple(part[2] for part in parts) if has_letters else listed


def _first_there(root: Path, folders: Sequence[str | Path], names: Sequence[str | Path]) -> Path:
    """The first file that exists by one of these names in one of these folders, or else of all."""
    places = [Path(root, folder, name) for folder in folders for name in names]
    return next((place for place in places if place.exists()), places[0])


_LAYOUTS = (
    _Layout(
        "NAME.jsonl with video, question, answer, and perhaps options and kind",
        lambda path: [path] if path.is_file() and path.suffix == ".jsonl" else [],
        _jsonl,
    ),
    _Layout(
        "Video-MME: videomme/test-*.parquet and data/VIDEO.mp4",
        lambda path: sorted(path.glob("videomme/test-*.parquet")),
        _video_mme,
    ),
    _Layout(
        "MVBench: json/TASK.json and the folders of videos, here or in video/",
        lambda path: sorted(f for f in path.glob("json/*.json") if f.stem in _MVBENCH_FOLDERS),
        _mvbench,
    ),
    _Layout(
        "NExT-QA: val.csv or test.csv, map_vid_vidorID.json, and NExTVideo/1234/VIDEO.mp4",
        _next_qa_files,
        _next_qa,
    ),
    _Layout(
        "EgoSchema: questions.json, subset_answers.json and videos/VIDEO.mp4",
        lambda path: list(path.glob("questions.json")) if (path / _EGO_ANSWERS).exists() else [],
        _egoschema,
    ),
)
"""Layouts that are known, the first that fits counts."""
