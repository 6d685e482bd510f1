"""Train the demo model: `python -m batch.evaluation.training.train --out FOLDER`.

In stages, because starting with whole videos learns no shapes: the vision tower alone with
dense labels, single pictures with questions, then videos; a second round of short clips, where
places and motions are learned at less cost, and videos of growing length. The state is written
every few minutes; the same command goes on from there. A seed and a number of steps give the
same batches; the figures of the last run are in the checkpoint's model card.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from batch.evaluation.training.checkpoint import new_tokenizer, save_checkpoint
from batch.evaluation.training.examples import Batch, DemoPrompts, Stage, TrainingExamples, batches
from batch.evaluation.training.progress import Progress
from batch.evaluation.training.student import StudentModel, answer_loss, right_answers

STAGES = (
    Stage(name="cells", steps=1400, shortest=1, longest=1, slots=4160, rates=(2e-3, 2e-3)),
    Stage(name="pictures", steps=900, shortest=1, longest=1, slots=3120, rates=(1.5e-3, 1.5e-3)),
    Stage(name="pairs", steps=600, shortest=2, longest=4, slots=3900, rates=(1.2e-3, 1.2e-3)),
    Stage(name="videos", steps=1041, shortest=4, longest=12, slots=4680, rates=(1e-3, 1e-3)),
    Stage(name="clips", steps=241, shortest=1, longest=4, slots=3900, rates=(1e-3, 9.3e-4)),
    Stage(name="films", steps=900, shortest=4, longest=14, slots=4680, rates=(8e-4, 3e-4)),
    Stage(name="long", steps=450, shortest=8, longest=40, slots=5200, rates=(3e-4, 0.0)),
)
_WARMUP_STEPS = 50
_LOGGED_STEPS = 20

Log = Callable[[dict[str, Any]], object]
"""Receives the figures of each step."""


def train(
    out: Path,
    stages: Sequence[Stage],
    seed: int,
    device: str,
    *,
    log: Log,
    save_every_s: float = 240.0,
) -> StudentModel:
    """Run the steps of the stages that `out`/state.pt has not; writes the state as it goes."""
    tokenizer = new_tokenizer()
    prompts = DemoPrompts(tokenizer)
    torch.manual_seed(seed)
    student = StudentModel(len(tokenizer)).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    progress = Progress(out / "state.pt", student.state_dict(), optimizer)
    for number, stage in list(enumerate(stages))[progress.part :]:
        first = progress.step if number == progress.part else 0
        examples = TrainingExamples(stage, seed, prompts)
        for step, batch in enumerate(batches(examples, first, torch.device(device)), first):
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, stage)
            with torch.autocast(device, torch.bfloat16):
                loss, right = _loss(student, batch, stage, prompts)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch 2.13
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            log(
                {
                    "stage": stage.name,
                    "step": step,
                    "seconds": round(progress.seconds()),
                    "loss": round(float(loss.detach()), 4),
                    **{kind: round(share, 3) for kind, share in sorted(right.items())},
                }
            )
            is_last = step + 1 == stage.steps
            progress.save(number, step + 1, every_s=0.0 if is_last else save_every_s)
    return student


def _rate(step: int, stage: Stage) -> float:
    """Learning rate: a warm-up, then from the stage's first rate straight to its last."""
    first, last = stage.rates
    return (first + (last - first) * step / stage.steps) * min(1.0, (step + 1) / _WARMUP_STEPS)


def _loss(
    student: StudentModel, batch: Batch, stage: Stage, prompts: DemoPrompts
) -> tuple[Tensor, dict[str, float]]:
    """The loss, and the share that is right of each kind of cell or question."""
    if stage.name == "cells":
        return student.cells_loss(batch)
    prefix = torch.tensor(prompts.prefix_ids(batch.pictures.shape[1]))
    logits = student.answers(batch, prefix.to(batch.pictures.device))
    right = {kind: sum(each) / len(each) for kind, each in right_answers(logits, batch).items()}
    return answer_loss(logits, batch), right


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Working folder.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(out: Path, seed: int, device: str) -> None:
    """Train the demo model and write the checkpoint to OUT/checkpoint."""

    def print_some(figures: dict[str, Any]) -> None:
        if figures["step"] % _LOGGED_STEPS == 0:
            click.echo(json.dumps(figures))

    out.mkdir(parents=True, exist_ok=True)
    student = train(out, STAGES, seed, device, log=print_some)
    save_checkpoint(student.model, out / "checkpoint")


if __name__ == "__main__":
    main()
