"""NExT-QA, multiple choice, as its authors publish it.

Source: arXiv 2105.08276; the annotations' own repository, and videos named by its map to VidOR.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.data.question_set import Question
from batch.evaluation.data.rows import first_there, read_json, row

LAYOUT = "NExT-QA: val.csv or test.csv, map_vid_vidorID.json, and NExTVideo/1234/VIDEO.mp4"

_MAP = "map_vid_vidorID.json"
_SPLITS = ("val.csv", "test.csv")


def is_here(path: Path) -> bool:
    """Whether this is the folder of NExT-QA, or a split in it."""
    if path.suffix == ".csv":
        return (path.parent / _MAP).exists()
    return (path / _MAP).exists() and any((path / split).exists() for split in _SPLITS)


def read(path: Path) -> Iterator[Question]:
    """The questions of a split in order; `kind` is the type, such as CW.

    Raises:
        BatchError: the folder has both splits, or a file is broken.
    """
    file = path if path.suffix == ".csv" else _split(path)
    places = read_json(file.parent / _MAP)
    for number, fields in enumerate(_rows(file), start=1):
        with row(file, number):
            options = tuple(fields[f"a{place}"].strip() for place in range(5))
            video = fields["video"]
            folder = file.parent / "NExTVideo"
            yield Question(
                video=first_there([folder / f"{places[video]}.mp4", folder / f"{video}.mp4"]),
                question=fields["question"],
                answer=options[int(fields["answer"])],
                options=options,
                kind=fields["type"],
            )


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    except (OSError, UnicodeError, csv.Error) as error:
        raise BatchError(f"{file}: cannot be read as CSV: {error}") from error


def _split(path: Path) -> Path:
    files = [path / split for split in _SPLITS if (path / split).exists()]
    if len(files) > 1:
        raise BatchError(f"{path}: two splits are here; give one of them: {files[0]} or {files[1]}")
    return files[0]
