"""Question sets on disk, recognised by their layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from batch.errors import BatchError
from batch.evaluation.data import egoschema, jsonl, mvbench, next_qa, video_mme
from batch.evaluation.data.question_set import Question, QuestionSet


class Reader(Protocol):
    """A module that knows one layout."""

    LAYOUT: str

    def is_here(self, path: Path) -> bool:
        """Whether a file or folder has this layout."""

    def read(self, path: Path) -> Iterator[Question]:
        """Its questions in order, those about videos that are not there too."""


READERS: tuple[Reader, ...] = (jsonl, video_mme, mvbench, next_qa, egoschema)


def read_set(path: Path) -> QuestionSet:
    """Read a JSONL file or the local folder of a benchmark.

    Raises:
        BatchError: no layout that is known, a broken file, or none of its videos is there.
    """
    for reader in READERS:
        if reader.is_here(path):
            return _gather(path, reader.read(path))
    layouts = "".join(f"\n  {reader.LAYOUT}" for reader in READERS)
    raise BatchError(f"{path}: no question set is recognised here; known layouts:{layouts}")


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
