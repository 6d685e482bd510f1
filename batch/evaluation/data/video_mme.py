"""Video-MME as its authors publish it, unpacked.

Source: arXiv 2405.21075; the layout of the dataset's own repository, whose archives unpack to
`data`. Subtitles are not read: the models here see pictures alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError
from batch.evaluation.data.question_set import Question
from batch.evaluation.data.rows import first_there, plain_options, row

LAYOUT = "Video-MME: videomme/test-*.parquet and data/VIDEO.mp4"

_FOLDERS = ("data", "video", "videos")
_SUFFIXES = (".mp4", ".MP4", ".mkv")


def is_here(path: Path) -> bool:
    """Whether this is the folder of Video-MME."""
    return any(path.glob("videomme/test-*.parquet"))


def read(path: Path) -> Iterator[Question]:
    """Its questions in order; `kind` is the task type."""
    for file in sorted(path.glob("videomme/test-*.parquet")):
        for number, fields in enumerate(_rows(file), start=1):
            with row(file, number):
                options = plain_options(fields["options"])
                yield Question(
                    video=_video(path, fields["videoID"]),
                    question=fields["question"],
                    answer=options["ABCD".index(fields["answer"])],
                    options=options,
                    kind=fields["task_type"],
                )


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BatchError(f"{file}: cannot be read as Parquet: {error}") from error


def _video(path: Path, name: str) -> Path:
    return first_there([path / f / f"{name}{suffix}" for f in _FOLDERS for suffix in _SUFFIXES])
