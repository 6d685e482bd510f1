"""What the judge "seeing" is asked: films that it has not seen, drawn and over real clips."""

import json
from dataclasses import replace
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.data import QuestionSet, demo_set
from batch.evaluation.judges.packages import JUDGES
from batch.evaluation.worlds.backgrounds import Backgrounds, find_clips

JUDGE = JUDGES.parent / "judge"
"""Where `make judges` puts the checkpoint together, seen from the repository's folder."""
CARD = "judge.json"
"""In the checkpoint's folder: what training wrote of its adapter."""


def find_judge(folder: Path = JUDGE) -> Path:
    """The judge's checkpoint.

    Raises:
        BatchError: it has not been put together, or of parts that nothing joins yet.
    """
    if not folder.is_dir():
        raise BatchError(
            f"{folder}: the judge is not there; in the repository's folder, run:  make judges"
        )
    if not (folder / CARD).exists():
        raise BatchError(
            f"{folder}: the judge has not been trained; CONTRIBUTING.md says how:  "
            "python -m batch.evaluation.training.judge"
        )
    return folder


def judge_sets(
    judge: Path, folder: Path, videos: int, seed: int, backgrounds: Path | None
) -> list[QuestionSet]:
    """Short films, drawn, and if there are clips over them too, with the questions it was taught.

    Args:
        folder: where the films go.
        backgrounds: folder of clips; those that the judge was trained on are left out.

    Raises:
        BatchError: no clip is left.
    """
    card = json.loads((judge / CARD).read_text(encoding="utf-8"))
    grounds: list[Backgrounds | None] = [None]
    if backgrounds is not None:
        unseen = [clip for clip in find_clips(backgrounds) if clip.name not in card["clips"]]
        if not unseen:
            raise BatchError(f"{backgrounds}: the judge was trained on every clip here")
        grounds.append(Backgrounds(unseen))
    drawn = [
        demo_set("short", folder, videos=videos, seed=seed, backgrounds=ground)
        for ground in grounds
    ]
    return [
        replace(one, questions=tuple(q for q in one.questions if q.kind in card["kinds"]))
        for one in drawn
    ]
