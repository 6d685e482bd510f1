"""A file of one's own: a JSON object a line.

`{"video": "a.mp4", "question": "Who comes last?", "answer": "the dog"}`, and where wanted
`options`, a list that holds the answer, and `kind`. Videos stand relative to the file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from batch.evaluation.data.question_set import Question
from batch.evaluation.data.rows import row

LAYOUT = "NAME.jsonl with video, question, answer, and perhaps options and kind"

_KNOWN = {"video", "question", "answer", "options", "kind"}


def is_here(path: Path) -> bool:
    """Whether this is such a file, by its name."""
    return path.is_file() and path.suffix == ".jsonl"


def read(path: Path) -> Iterator[Question]:
    """Its questions in order; blank lines are none."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            with row(path, number):
                yield _question(path, json.loads(line))


def _question(path: Path, fields: dict[str, str]) -> Question:
    unknown = set(fields) - _KNOWN
    if unknown:
        raise ValueError(f"got the fields {sorted(unknown)}, known are {sorted(_KNOWN)}")
    return Question(
        video=path.parent / fields["video"],
        question=fields["question"],
        answer=fields["answer"],
        options=tuple(fields.get("options", ())),
        kind=fields.get("kind", ""),
    )
