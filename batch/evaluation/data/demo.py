"""Held-out films of the demo world, in several variants, each hard in its own way."""

from pathlib import Path

import numpy as np

from batch.demo.drawing import write_clip
from batch.demo.questions import questions_about
from batch.errors import BatchError
from batch.evaluation.data.question_set import Question, QuestionSet
from batch.evaluation.worlds.variants import VARIANTS


def demo_set(variant: str, folder: Path, *, videos: int, seed: int) -> QuestionSet:
    """Film demo worlds and ask all that can be asked about them.

    The same arguments give the same films and questions; a film that is there stays.

    Args:
        variant: one of VARIANTS.
        folder: where the films go.
        videos: how many.
        seed: 0 trained the model and 1 is the demo.

    Raises:
        BatchError: no such variant.
    """
    if variant not in VARIANTS:
        raise BatchError(f"got the variant {variant!r}, there are {', '.join(VARIANTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    questions = []
    for number in range(videos):
        rng = np.random.default_rng([seed, number])
        world = VARIANTS[variant].random_world(rng)
        film = folder / f"{variant}-{seed}-{number}.mp4"
        if not film.exists():
            unfinished = film.with_name(f".{film.stem}.tmp.mp4")
            write_clip(world, unfinished)
            unfinished.replace(film)
        questions += [
            Question(video=film, question=one.text, answer=one.answer, kind=one.kind)
            for one in questions_about(world, rng)
        ]
    return QuestionSet(name=f"demo {variant}", questions=tuple(questions))
