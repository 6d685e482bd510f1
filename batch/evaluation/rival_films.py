"""Films as other tools' caches need them: `python -m batch.evaluation.rival_films --out FOLDER`.

The embeddings of every slot and the token ids of every question, so that another version of
transformers runs the same decoder on the same input. Read by the scripts in `rivals`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file

from batch.cli.options import FOLDER
from batch.cli.progress import progress
from batch.evaluation.choosing import choose_sets
from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.scoring import prompt
from batch.evaluation.uncompressed import embed
from batch.evaluation.viewing import Viewing
from batch.models import Family, open_family
from batch.video import Sampling
from jobs.atomic import make_folder


def write_films(family: Family, sets: Sequence[QuestionSet], folder: Path) -> Iterator[Path]:
    """Write `films.jsonl` and a safetensors file per film; yields each film when it is done.

    A line holds `video`, `prefix` (the file of its embeddings, float32 [slots, hidden]),
    `seconds` (decoding and encoding) and `questions` (token ids by question).
    """
    unfinished = folder / ".films.jsonl.tmp"
    with unfinished.open("w", encoding="utf-8") as lines:
        asked = (question for data in sets for question in data.questions)
        for video, questions in groupby(asked, key=lambda question: question.video):
            line = _write_film(family, video, list(questions), folder)
            lines.write(f"{json.dumps(line)}\n")
            yield video
    unfinished.replace(folder / "films.jsonl")


def _write_film(
    family: Family, video: Path, questions: list[Question], folder: Path
) -> dict[str, Any]:
    viewing = Viewing(video, family, Sampling())
    footage = viewing.footage
    started = time.perf_counter()
    prefix = embed(family, viewing.pictures, footage)
    seconds = viewing.decode_seconds + time.perf_counter() - started
    name = f"{video.stem}.safetensors"
    save_file({"prefix": prefix.float()}, folder / name)
    return {
        "video": video.name,
        "prefix": name,
        "seconds": seconds,
        "questions": {
            one.question: family.question_ids(prompt(one.question, one.options))
            for one in questions
        },
    }


@click.command()
@click.option("--out", "folder", required=True, type=FOLDER, help="For films.jsonl and the rest.")
@click.option("--data", multiple=True, default=["demo:plain"], help="As of batch evaluate.")
@click.option("--videos", default=20, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=2, show_default=True, type=click.IntRange(2))
def main(folder: Path, data: tuple[str, ...], videos: int, seed: int) -> None:
    """Write the films and questions of `batch evaluate` for the rivals' scripts."""
    family = open_family("demo")
    family.load(device="cpu", dtype=torch.float32)
    make_folder(folder / "films")
    sets = choose_sets(data, folder / "films", videos=videos, seed=seed)
    total = len({question.video for one in sets for question in one.questions})
    with progress("films", total, "films") as tell:
        for _ in write_films(family, sets, folder):
            tell(1)


if __name__ == "__main__":
    main()
