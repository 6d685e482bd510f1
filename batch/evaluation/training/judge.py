"""Train the judge "seeing": `python -m batch.evaluation.training.judge --out FOLDER`.

The tower and the decoder's weights stay as they are; a projector and low-rank adapters learn. In
stages: the projector alone learns to say in the decoder's own words what each cell shows (from
features that are made once and kept); then single pictures with questions, a few samples, films.
Each stage has a share of the minutes. The state is written every few minutes, and the same
command goes on from there; `--start` begins with a trained adapter instead. The result is the
adapter alone, which `batch.evaluation.judges.seeing` merges.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from batch.demo.drawing import Rgb, draw
from batch.demo.questions import KINDS
from batch.demo.world import World
from batch.errors import BatchError
from batch.evaluation.judges.seeing_films import CARD
from batch.evaluation.training.adapter import read_card
from batch.evaluation.training.examples import Batch, Stage, TrainingExamples, batches
from batch.evaluation.training.judge_student import JudgeStudent, cell_labels
from batch.evaluation.training.progress import Progress
from batch.evaluation.training.student import answer_loss, right_answers
from batch.evaluation.worlds.backgrounds import Backgrounds, find_clips
from batch.models import open_family
from jobs.atomic import make_folder
from jobs.errors import JobError

ASKED = tuple(kind for kind in KINDS if kind != "caption")
"""Kinds of questions that the judge learns; captions name the ground, and clips have no name."""
RANK = 8
POOL = 1000
"""Pictures of which stage "cells" keeps the features."""
_WARMUP_STEPS = 20
_POOL_BATCH = 24
_LOGGED_STEPS = 10
_PROJECTOR_SHARE = 0.1

STAGES = {
    Stage(name="cells", shortest=1, longest=1, slots=1040, rates=(3e-3, 3e-4)): 0.1,
    Stage(name="pictures", shortest=1, longest=1, slots=195, rates=(1.5e-3, 1.2e-3)): 0.4,
    Stage(name="clips", shortest=1, longest=3, slots=390, rates=(1.2e-3, 7e-4)): 0.25,
    Stage(name="films", shortest=4, longest=8, slots=650, rates=(7e-4, 5e-5)): 0.25,
}
"""Each with its share of the time."""

Log = Callable[[dict[str, Any]], object]
"""Receives the figures of each step."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a run learns from, and for how long."""

    seconds: float
    seed: int = 0
    clips: tuple[Path, ...] = ()
    """Every other film is drawn over these."""
    start: dict[str, Any] | None = None
    """Card of the adapter that it begins with."""
    stages: Mapping[Stage, float]
    """Each with its share of the time."""
    pool: int = POOL
    save_every_s: float = 180.0


def train(folder: Path, student: JudgeStudent, course: Course, log: Log) -> None:
    """Run what `folder`/state.pt has not; writes the state and the adapter as it goes."""
    stages = list(course.stages)
    if stages[0].name == "cells":
        _pool(folder, student, course)  # not of the time: it is made once
    optimizer = _optimizer(student)
    progress = Progress(folder / "state.pt", student.adapter.tensors(), optimizer)
    begin = 0.0
    for number, stage in enumerate(stages):
        end = begin + course.stages[stage] * course.seconds
        if number >= progress.part and progress.seconds() < end:
            first = progress.step if number == progress.part else 0
            for step, loss, right in _steps(folder, student, course, stage, first):
                done = min(1.0, max(0.0, (progress.seconds() - begin) / (end - begin)))
                rate = stage.rates[0] * (1 - done) + stage.rates[1] * done
                _set_rate(optimizer, rate * min(1.0, (step + 1) / _WARMUP_STEPS), stage)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch 2.13
                nn.utils.clip_grad_norm_(student.adapter.tensors().values(), 1.0)
                optimizer.step()
                figures = {"stage": stage.name, "step": step, "loss": float(loss.detach())}
                log(figures | {"seconds": round(progress.seconds()), **right})
                is_last = progress.seconds() >= end or step + 1 == stage.steps
                every_s = 0.0 if is_last else course.save_every_s
                if progress.save(number, step + 1, every_s=every_s):
                    card = _card(course, stage, step + 1, progress.seconds())
                    student.adapter.save(folder / "adapter.safetensors", card)
                if is_last:
                    break
        begin = end


def _card(course: Course, stage: Stage, steps: int, seconds: float) -> dict[str, Any]:
    """How an adapter came to be, after so many steps of a stage."""
    return {
        "kinds": list(ASKED),
        "seed": course.seed,
        "clips": [clip.name for clip in course.clips],
        "start": course.start,
        "stage": stage.name,
        "steps": steps,
        "minutes": round(seconds / 60, 1),
    }


def _optimizer(student: JudgeStudent) -> torch.optim.Optimizer:
    """With the projector as its first group and all adapters as its second."""
    projector = list(student.adapter.projector.parameters())
    adapters = [pair for one in student.adapter.low_rank.values() for pair in (one.down, one.up)]
    groups = [{"params": projector}, {"params": adapters}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, stage: Stage) -> None:
    """Behind stage "cells" the projector, which can see by then, learns more slowly."""
    projector, adapters = optimizer.param_groups
    projector["lr"] = rate if stage.name == "cells" else _PROJECTOR_SHARE * rate
    adapters["lr"] = rate


def _steps(
    folder: Path, student: JudgeStudent, course: Course, stage: Stage, first: int
) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    """Numbers, losses and shares of right answers of a stage's steps, from the first on."""
    if stage.name == "cells":
        features, labels = _pool(folder, student, course)
        if first == 0:
            student.standardise(features)
        for step in range(first, stage.steps):
            chosen = torch.from_numpy(
                np.random.default_rng([course.seed, step]).integers(len(labels), size=_POOL_BATCH)
            )
            here = features[chosen].to(_device(student)).float()
            loss, right = student.cells_loss(here, labels[chosen].to(here.device).long())
            yield step, loss, right
        return
    for step, batch in enumerate(_batches(student, course, stage, first), first):
        with _cast(student):
            scores = student.answers(batch)
        right = {kind: sum(each) / len(each) for kind, each in right_answers(scores, batch).items()}
        yield step, answer_loss(scores, batch), right


def _pool(folder: Path, student: JudgeStudent, course: Course) -> tuple[Tensor, Tensor]:
    """Features float16 [pictures, cells, width] and labels int8 [pictures, cells, groups]."""
    file = folder / "features.pt"
    if not file.exists():
        features, labels = [], []
        for batch in _batches(student, course, next(iter(course.stages)), 0):
            with _cast(student):
                features.append(student.features(batch.pictures.flatten(0, 1)).half().cpu())
            labels.append(cell_labels(batch).to(torch.int8).cpu())
            if sum(map(len, labels)) >= course.pool:
                break
        part = file.with_suffix(".part")
        torch.save((torch.cat(features), torch.cat(labels)), part)
        part.replace(file)
    loaded: tuple[Tensor, Tensor] = torch.load(file)
    return loaded


def _batches(student: JudgeStudent, course: Course, stage: Stage, first: int) -> Iterator[Batch]:
    examples = TrainingExamples(
        stage, course.seed, student.prompts, kinds=ASKED, drawn=_Drawing(course.clips).draw
    )
    return batches(examples, first, _device(student))


class _Drawing:
    """Draws every other world, by the seed of its noise, over real clips if there are any."""

    def __init__(self, clips: Sequence[Path]) -> None:
        self._backgrounds = Backgrounds(clips) if clips else None

    def draw(self, world: World, time_s: float, size_px: int) -> Rgb:
        if self._backgrounds is None or world.noise_seed % 2:
            return draw(world, time_s, size_px)
        return self._backgrounds.draw(world, time_s, size_px)


def _device(student: JudgeStudent) -> torch.device:
    return next(student.parameters()).device


def _cast(student: JudgeStudent) -> torch.autocast:
    """bfloat16 where it is fast: on a GPU."""
    device = _device(student).type
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Working folder.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="The judge without an adapter, as `batch.evaluation.judges.seeing` writes it.",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), required=True, help="In all.")
@click.option(
    "--backgrounds",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of real clips; every other film is drawn over them.",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Go on from a trained adapter, behind stage cells.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(
    out: Path,
    model: Path,
    minutes: float,
    backgrounds: Path | None,
    start: Path | None,
    seed: int,
    device: str,
) -> None:
    """Train projector and adapters; OUT/adapter.safetensors is the result so far."""

    def print_some(figures: dict[str, Any]) -> None:
        for kind, share in figures.items():
            if kind not in ("stage", "step", "seconds"):
                window.setdefault(kind, []).append(share)
        if figures["step"] % _LOGGED_STEPS == _LOGGED_STEPS - 1:
            means = {kind: round(sum(each) / len(each), 3) for kind, each in window.items()}
            click.echo(json.dumps({**figures, **means}))
            window.clear()

    window: dict[str, list[float]] = {}
    try:
        make_folder(out)
        torch.manual_seed(seed)
        student = _student(model, start).to(device)
        course = Course(
            seconds=60 * minutes,
            seed=seed,
            clips=tuple(find_clips(backgrounds)) if backgrounds else (),
            start=None if start is None else read_card(start),
            stages={
                stage: share
                for stage, share in STAGES.items()
                if start is None or stage.name != "cells"
            },
        )
        train(out, student, course, print_some)
    except (BatchError, JobError) as error:
        raise click.ClickException(str(error)) from error


def _student(model: Path, start: Path | None) -> JudgeStudent:
    if (model / CARD).exists():
        raise BatchError(f"{model}: an adapter is merged into it; training starts without one")
    whole = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    student = JudgeStudent(whole, open_family(str(model)), RANK)
    if start is not None:
        student.adapter.load(start)
    return student


if __name__ == "__main__":
    main()
