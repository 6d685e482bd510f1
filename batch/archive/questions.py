"""Questions from a file, each for all videos or for some. Knows suffixes and columns, no caches."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError

COLUMNS = ("question", "video")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and the videos that it is for."""

    question: str
    video: str | None = None
    """As of `is_meant`; None: all videos."""


def read_questions(path: Path) -> list[Asked]:
    """Read a file of questions by its suffix: .txt a question a line, .csv, .jsonl, .parquet.

    All but text have a column "question" and may have "video". Blank lines are none, and what is
    there twice is asked once.

    Raises:
        BatchError: names the file and the line, and what was expected there.
    """
    read = _READERS.get(path.suffix)
    if read is None:
        raise BatchError(
            f"{path}: got {path.suffix or 'no suffix'}, expected {', '.join(_READERS)}"
        )
    try:
        rows = list(read(path))
    except (OSError, UnicodeError, ValueError, csv.Error, pa.ArrowException) as error:
        raise BatchError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error
    found = dict.fromkeys(_asked(path, number, row) for number, row in rows)
    if not found:
        raise BatchError(f"{path}: holds no question")
    return list(found)


def _asked(path: Path, number: int, row: Any) -> Asked:
    where = f"{path}: row {number}"
    if not isinstance(row, dict) or "question" not in row or row.keys() - set(COLUMNS):
        names = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise BatchError(f"{where}: got {names}, expected question and perhaps video")
    question, video = row["question"], row.get("video") or None
    if not isinstance(question, str) or not question.strip() or not _is_unicode(question):
        raise BatchError(f"{where}: question: got {question!r}, expected some text")
    if not isinstance(video, str | None):
        raise BatchError(f"{where}: video: got {video!r}, expected a pattern of paths or nothing")
    return Asked(question=question, video=video)


def _is_unicode(text: str) -> bool:
    """JSON may hold half of a character."""
    return text == text.encode(errors="replace").decode()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _of_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            yield number, {"question": line}


def _of_csv(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restkey="too many", strict=True)
    for row in reader:
        yield reader.line_num, row


def _of_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):  # a text may hold U+2028
        if line.strip():
            yield number, json.loads(line)


def _of_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    yield from enumerate(pq.read_table(path).to_pylist(), 1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".txt": _of_lines,
    ".csv": _of_csv,
    ".jsonl": _of_jsonl,
    ".parquet": _of_parquet,
}
