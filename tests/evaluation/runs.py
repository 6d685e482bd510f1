"""Runs as a method would leave them, without a method."""

from pathlib import Path

import numpy as np

from batch.evaluation.chosen_judges import Judges
from batch.evaluation.data import Question
from batch.evaluation.runs import UNCOMPRESSED, AnsweredQuestion, Label, Run
from batch.settings import ModelSettings

OURS = Label(method="sali-cache", profile="default")


def asked(
    truth: str = "red",
    answer: str = "red",
    *,
    reference: str = "red",
    kind: str = "colour",
    options: tuple[str, ...] = (),
    kl: float | None = 0.5,
) -> AnsweredQuestion:
    question = Question(
        video=Path("film.mp4"),
        question=f"what is {truth} ?",
        answer=truth,
        options=options,
        kind=kind,
    )
    return AnsweredQuestion(question=question, reference=reference, answer=answer, kl=kl)


def run(
    *answers: AnsweredQuestion,
    label: Label = OURS,
    video: str = "film.mp4",
    size_bytes: int = 250,
    data: str = "films",
) -> Run:
    """A video of ten samples of four cells, two of them pointers."""
    states = np.array([[1, 1, 1, 1, 0]] * 8 + [[0, 0, 0, 0, 4]] * 2)
    return Run(
        label=label,
        kind="before",
        in_file=True,
        data=data,
        video=video,
        samples=10,
        fp16_bytes=1000,
        slots=50,
        size_bytes=size_bytes,
        kv_bytes=200,
        seconds=2.0,
        parts={
            "decode": 1.0,
            "analyse": 0.0,
            "encode": 0.5,
            "prefill": 0.5,
            "quantise": 0.0,
            "write": 0.0,
        },
        tokens={"FP16": 8, "INT8": 8, "INT4": 8},
        computed=12,
        cell_states=states,
        sample_bytes=np.array([20] * 10),
        peak_bytes=None,
        answers=answers,
    )


def uncompressed(*answers: AnsweredQuestion, video: str = "film.mp4") -> Run:
    return run(*answers, label=UNCOMPRESSED, video=video, size_bytes=1000)


def demo_judge() -> Judges:
    """The bundled model alone, before one film of each set."""
    return Judges(
        names=["demo"],
        model=ModelSettings(device="cpu", dtype="float32"),
        data=["demo"],
        videos=1,
        backgrounds=None,
        context_tokens=64,
        contexts=2,
    )
