"""Write films and questions of `batch evaluate` for the scripts in `rivals`.

    python -m batch.evaluation.export_films --out FOLDER

They run other tools' caches in environments of their own. What they get are the embeddings of
every slot and the token ids of every question, so that another version of transformers runs the
same decoder on the same input.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from safetensors.torch import save_file

from batch.evaluation.choosing import choose_sets
from batch.evaluation.data import QuestionSet
from batch.evaluation.scoring import prompt
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.uncompressed import embed
from batch.models import Family, open_model
from batch.settings import ModelSettings
from batch.video import Sampling


def export_films(family: Family, sets: Sequence[QuestionSet], folder: Path) -> Iterator[Path]:
    """Write `films.jsonl` and a safetensors file per film; yields each film when it is done.

    A line holds `video`, `prefix` (the file of its embeddings, float32 [slots, hidden]),
    `seconds` (decoding and encoding) and `questions` (token ids by question).
    """
    unfinished = folder / ".films.jsonl.tmp"
    with unfinished.open("w", encoding="utf-8") as lines:
        asked = (question for data in sets for question in data.questions)
        for path, questions in groupby(asked, key=lambda question: question.video):
            video = PreparedVideo(path, family, Sampling())
            footage, started = video.footage, time.perf_counter()
            prefix = embed(family, video.pictures, footage)
            film = {
                "video": path.name,
                "prefix": f"{path.stem}.safetensors",
                "seconds": video.decode_seconds + time.perf_counter() - started,
                "questions": {
                    one.question: family.question_ids(prompt(one.question, one.options))
                    for one in questions
                },
            }
            save_file({"prefix": prefix.float()}, folder / f"{path.stem}.safetensors")
            lines.write(f"{json.dumps(film)}\n")
            yield path
    unfinished.replace(folder / "films.jsonl")


def main() -> None:
    """The command line; --data, --videos and --seed choose as those of `batch evaluate`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="for films.jsonl and the rest")
    parser.add_argument("--data", action="append", help="repeat for more; default: demo:plain")
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.videos < 1 or chosen.seed < 2:
        parser.error("expected 1 video or more, and a seed from 2 on: 0 and 1 are not held out")
    drawn = chosen.out / "films"
    drawn.mkdir(parents=True, exist_ok=True)
    family = open_model(ModelSettings(device="cpu", dtype="float32")).load()
    names = chosen.data or ["demo:plain"]
    sets = choose_sets(names, drawn, videos=chosen.videos, seed=chosen.seed)
    for film in export_films(family, sets, chosen.out):
        sys.stderr.write(f"{film.name}\n")


if __name__ == "__main__":
    main()
