"""EgoSchema as its authors publish it: the questions whose answers are public.

Source: arXiv 2308.09126; the files of the dataset's own repository, and `videos` as its
download script makes it.
"""

from collections.abc import Iterator
from pathlib import Path

from batch.evaluation.data.question_set import Question
from batch.evaluation.data.rows import read_json, row

LAYOUT = "EgoSchema: questions.json, subset_answers.json and videos/VIDEO.mp4"


def is_here(path: Path) -> bool:
    """Whether this is the folder of EgoSchema."""
    return all((path / name).exists() for name in ("questions.json", "subset_answers.json"))


def read(path: Path) -> Iterator[Question]:
    """Its questions with a public answer, in order."""
    answers = read_json(path / "subset_answers.json")
    file = path / "questions.json"
    for number, fields in enumerate(read_json(file), start=1):
        with row(file, number):
            name = fields["q_uid"]
            if name in answers:
                options = tuple(fields[f"option {place}"].strip() for place in range(5))
                yield Question(
                    video=path / "videos" / f"{name}.mp4",
                    question=fields["question"],
                    answer=options[answers[name]],
                    options=options,
                )
