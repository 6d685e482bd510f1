"""What a method is asked, and how question sets are read: one form of a row for all of them.

A row is an object with `video`, `question` and `answer`, and where wanted `options`, a list that
holds the answer, and `kind`; videos stand relative to a folder. A JSONL file holds such rows;
published benchmarks are converted to them while they are read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.data.converters import LAYOUTS, Layout, Row, load

_KNOWN = {"video", "question", "answer", "options", "kind"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a video and its true answer."""

    video: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    """What the answer is one of; empty if it is free."""
    kind: str = ""
    """What sort of question it is, in the words of its set."""

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


def read_set(path: Path) -> QuestionSet:
    """Read a JSONL file or the local folder of a benchmark.

    Raises:
        BatchError: no layout that is known, a broken file, or none of its videos is there.
    """
    for layout in LAYOUTS:
        files = layout.files(path)
        if files:
            return _gather(path, _questions(path, files, layout))
    layouts = "".join(f"\n  {layout.about}" for layout in LAYOUTS)
    raise BatchError(f"{path}: no question set is recognised here; known layouts:{layouts}")


def _questions(path: Path, files: list[Path], layout: Layout) -> Iterator[Question]:
    """Its questions in order, those about videos that are not there too."""
    root = path if path.is_dir() else path.parent
    for file in files:
        for number, fields in enumerate(load(file), start=1):
            with _named(file, number):
                row = layout.convert(root, file, fields)
                if row is not None:
                    yield _question(root, row)


def _question(root: Path, row: Row) -> Question:
    unknown = set(row) - _KNOWN
    if unknown:
        raise ValueError(f"got the fields {sorted(unknown)}, known are {sorted(_KNOWN)}")
    return Question(
        video=root / row["video"],
        question=row["question"],
        answer=row["answer"],
        options=tuple(row.get("options", ())),
        kind=row.get("kind", ""),
    )


@contextmanager
def _named(file: Path, number: int) -> Iterator[None]:
    """Name the file and the row, counted from 1, in errors about what is in it."""
    try:
        yield
    except KeyError as error:
        raise BatchError(f"{file}: row {number} has no field {error}") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise BatchError(f"{file}: row {number}: {error}") from error


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
