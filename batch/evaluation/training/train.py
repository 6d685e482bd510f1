"""Train the demo model: `python -m batch.evaluation.training.train --out FOLDER`.

In stages, because starting with whole videos learns no shapes: the vision tower alone with
dense labels, single pictures with questions, then videos; a second round of short clips, where
places and motions are learned at less cost, and videos of growing length. The state is written
every few minutes; the same command goes on from there. A seed and a number of steps give the
same batches; the figures of the last run are in the checkpoint's model card.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from batch.demo.checkpoint import new_tokenizer, save
from batch.evaluation.training.lessons import Batch, Lessons, Stage, prefix_ids
from batch.evaluation.training.pupil import Pupil, answer_loss, right_answers

STAGES = (
    Stage(name="cells", steps=1400, shortest=1, longest=1, slots=4160, rates=(2e-3, 2e-3)),
    Stage(name="pictures", steps=900, shortest=1, longest=1, slots=3120, rates=(1.5e-3, 1.5e-3)),
    Stage(name="pairs", steps=600, shortest=2, longest=4, slots=3900, rates=(1.2e-3, 1.2e-3)),
    Stage(name="videos", steps=1041, shortest=4, longest=12, slots=4680, rates=(1e-3, 1e-3)),
    Stage(name="clips", steps=241, shortest=1, longest=4, slots=3900, rates=(1e-3, 9.3e-4)),
    Stage(name="films", steps=900, shortest=4, longest=14, slots=4680, rates=(8e-4, 3e-4)),
    Stage(name="long", steps=450, shortest=8, longest=40, slots=5200, rates=(3e-4, 0.0)),
)
SAVE_EVERY_S = 240.0
WARMUP_STEPS = 50


def rate(step: int, stage: Stage) -> float:
    """Learning rate: a warm-up, then from the stage's first rate straight to its last."""
    first, last = stage.rates
    return (first + (last - first) * step / stage.steps) * min(1.0, (step + 1) / WARMUP_STEPS)


def train(out: Path, stages: tuple[Stage, ...], seed: int, device: str) -> Pupil:
    """Run what `out`/state.pt has not run yet of the stages; writes the state as it goes."""
    tokenizer = new_tokenizer()
    torch.manual_seed(seed)
    pupil = Pupil(len(tokenizer)).to(device)
    optimizer = torch.optim.AdamW(pupil.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    clock = _Clock(out / "state.pt")
    clock.restore(pupil, optimizer, device)
    for number in range(clock.stage, len(stages)):
        stage = stages[number]
        first = clock.step if number == clock.stage else 0
        batches = DataLoader(
            Lessons(stage, seed, tokenizer),
            batch_size=None,
            sampler=range(first, stage.steps),
            num_workers=1,
            prefetch_factor=4,
        )
        for step, batch in enumerate(batches, first):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, stage)
            with torch.autocast(device, torch.bfloat16):
                loss, right = _learn(pupil, _to(batch, device), stage, tokenizer)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch 2.13
            nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 0:
                click.echo(json.dumps(_line(stage, step, clock.seconds(), loss, right)))
            clock.tick(number, step + 1, pupil, optimizer, now=step + 1 == stage.steps)
    return pupil


class _Clock:
    """How far training is, on disk every few minutes, so that the same command goes on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.stage, self.step = 0, 0
        self._before, self._started = 0.0, time.monotonic()
        self._saved = self._started

    def seconds(self) -> float:
        """Seconds of training, in all runs together."""
        return self._before + time.monotonic() - self._started

    def restore(self, pupil: Pupil, optimizer: torch.optim.Optimizer, device: str) -> None:
        """Take up the state on disk, if there is one."""
        if self._file.exists():
            state = torch.load(self._file, map_location=device)
            pupil.load_state_dict(state["pupil"])
            optimizer.load_state_dict(state["optimizer"])
            self.stage, self.step = state["done"]["stage"], state["done"]["step"]
            self._before = state["done"]["seconds"]

    def tick(
        self,
        stage: int,
        steps: int,
        pupil: Pupil,
        optimizer: torch.optim.Optimizer,
        *,
        now: bool,
    ) -> None:
        """Write the state after so many steps of a stage, if `now` or if it is time."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY_S:
            return
        done = {"stage": stage, "step": steps, "seconds": self.seconds()}
        state = {"pupil": pupil.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
        part = self._file.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._file)
        self._saved = time.monotonic()


def _learn(
    pupil: Pupil, batch: Batch, stage: Stage, tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, dict[str, float]]:
    if stage.name == "cells":
        return pupil.cells_loss(batch)
    prefix = torch.tensor(prefix_ids(batch.pictures.shape[1], tokenizer))
    logits = pupil.answers(batch, prefix.to(batch.pictures.device))
    right = {kind: sum(each) / len(each) for kind, each in right_answers(logits, batch).items()}
    return answer_loss(logits, batch), right


def _line(
    stage: Stage, step: int, seconds: float, loss: Tensor, right: dict[str, float]
) -> dict[str, object]:
    rounded = {kind: round(share, 3) for kind, share in sorted(right.items())}
    return {
        "stage": stage.name,
        "step": step,
        "seconds": round(seconds),
        "loss": round(float(loss.detach()), 4),
        **rounded,
    }


def _to(batch: Batch, device: str) -> Batch:
    return replace(batch, **{name: value.to(device) for name, value in vars(batch).items()})


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Working folder.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(out: Path, seed: int, device: str) -> None:
    """Train the demo model and write the checkpoint to OUT/checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    pupil = train(out, STAGES, seed, device)
    save(pupil.model, out / "checkpoint")


if __name__ == "__main__":
    main()
