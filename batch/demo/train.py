"""Train the demo model: `python -m batch.demo.train --out FOLDER`.

Three stages, because starting with whole videos learns no shapes: (0) the vision tower alone
with dense labels, (1) single pictures with questions, (2) videos of growing length. The state
is written every few minutes; the same command goes on from there. A seed and a number of steps
give the same batches; the numbers of the last run are in the checkpoint's model card.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import LlavaNextForConditionalGeneration

from batch.demo.checkpoint import CELLS, new_model, new_tokenizer, save
from batch.demo.lessons import IGNORED, THINGS, Batch, Lessons, Stage, make_batch, prefix_ids
from batch.demo.questions import KINDS
from batch.demo.world import COLOURS, GROUNDS

STAGES = (
    Stage(name="cells", steps=1400, shortest=1, longest=1, slots=64 * 65, learning_rate=2e-3),
    Stage(name="pictures", steps=900, shortest=1, longest=1, slots=48 * 65, learning_rate=1.5e-3),
    Stage(name="pairs", steps=600, shortest=2, longest=4, slots=60 * 65, learning_rate=1.2e-3),
    Stage(name="videos", steps=1400, shortest=4, longest=12, slots=72 * 65, learning_rate=1e-3),
    Stage(name="long", steps=350, shortest=8, longest=40, slots=80 * 65, learning_rate=4e-4),
)
SAVE_EVERY_S = 240.0
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Pupil(nn.Module):
    """The model with the linear heads that stage "cells" reads the vision tower by."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.model: LlavaNextForConditionalGeneration = new_model(vocabulary)
        width = self.model.config.vision_config.hidden_size
        self.heads = nn.Linear(width, len(THINGS) + len(COLOURS) + 1 + len(GROUNDS))
        self.sizes = (len(THINGS), len(COLOURS) + 1, len(GROUNDS))

    def cell_states(self, pictures: Tensor) -> Tensor:
        """Vision tower output, [pictures, cells, width], of uint8 [pictures, h, w, 3]."""
        mean = torch.tensor(_MEAN, device=pictures.device)
        deviation = torch.tensor(_DEVIATION, device=pictures.device)
        pixels = ((pictures.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
        tower = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return tower.hidden_states[-1][:, 1:]

    def cells_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of what each cell shows, and the share of right shapes and colours."""
        states = self.cell_states(batch.pictures.flatten(0, 1))
        thing, colour, ground = self.heads(states).float().split(self.sizes, dim=-1)
        labels = batch.things.flatten(0, 1), batch.colours.flatten(0, 1)
        grounds = batch.grounds.flatten().unsqueeze(-1).expand(-1, CELLS)
        loss = (
            functional.cross_entropy(thing.flatten(0, 1), labels[0].flatten())
            + functional.cross_entropy(colour.flatten(0, 1), labels[1].flatten())
            + 0.2 * functional.cross_entropy(ground.flatten(0, 1), grounds.flatten())
        )
        full = labels[0] > 0
        right = {
            "thing": float((thing.argmax(-1) == labels[0])[full].float().mean()),
            "colour": float((colour.argmax(-1) == labels[1])[full].float().mean()),
        }
        return loss, right

    def answers(self, batch: Batch, prefix: Tensor) -> Tensor:
        """Logits [videos, packed, vocabulary] of the packed questions behind the videos."""
        inner = self.model.model
        videos, samples = batch.pictures.shape[:2]
        cells = inner.multi_modal_projector(self.cell_states(batch.pictures.flatten(0, 1)))
        newline = inner.image_newline.expand(videos * samples, 1, -1).to(cells.dtype)
        pictures = torch.cat([cells, newline], 1).view(videos, -1, cells.shape[-1])
        embed = inner.get_input_embeddings()
        start = embed(prefix[:2]).expand(videos, -1, -1).to(cells.dtype)
        questions = embed(batch.tokens).to(cells.dtype)
        slots = len(prefix)
        positions = torch.arange(slots, device=prefix.device).expand(videos, -1)
        hidden = inner.language_model(
            inputs_embeds=torch.cat([start, pictures, questions], 1),
            attention_mask=_mask(batch.owners, slots),
            position_ids=torch.cat([positions, batch.positions], 1),
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[:, slots:])
        return logits


def _mask(owners: Tensor, slots: int) -> Tensor:
    """Bool [videos, 1, all, all]: causal, and a question sees the prefix and itself only."""
    videos, packed = owners.shape
    whole = torch.cat([owners.new_full((videos, slots), -2), owners], 1)
    size = slots + packed
    causal = torch.ones(size, size, dtype=torch.bool, device=owners.device).tril()
    same = (whole[:, None] == whole[:, :, None]) | (whole[:, None] == -2)
    return (same & causal).unsqueeze(1)


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of answer tokens; a longer answer counts by the root of its length."""
    target = batch.targets
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(target)
    asked = target != IGNORED
    same = (batch.owners[:, None] == batch.owners[:, :, None]) & asked[:, None]
    weight = same.sum(-1).clamp(min=1).float().rsqrt() * asked
    return (losses * weight).sum() / weight.sum()


def right_answers(logits: Tensor, batch: Batch) -> dict[str, list[bool]]:
    """For each kind, whether each answer is right to the last token under greedy decoding."""
    wrong = (logits.argmax(-1) != batch.targets) & (batch.targets != IGNORED)
    found: dict[str, list[bool]] = {}
    for video, kinds in enumerate(batch.kinds.tolist()):
        for question, kind in enumerate(kinds):
            if kind >= 0:
                failed = bool(wrong[video][batch.owners[video] == question].any())
                found.setdefault(KINDS[kind], []).append(not failed)
    return found


def rate(step: int, stage: Stage, warmup: int, *, last: bool) -> float:
    """Learning rate: a short warm-up, constant, and a linear fall in the last stage."""
    rising = min(1.0, (step + 1) / warmup)
    falling = 1 - step / stage.steps if last else 1.0
    return stage.learning_rate * rising * max(falling, 0.02)


def train(out: Path, stages: tuple[Stage, ...], seed: int, device: str) -> Pupil:
    """Run the stages that `out`/state.pt has not run yet; writes the state as it goes."""
    tokenizer = new_tokenizer()
    torch.manual_seed(seed)
    pupil = Pupil(len(tokenizer)).to(device)
    optimizer = torch.optim.AdamW(pupil.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    state_file = out / "state.pt"
    done = {"stage": 0, "step": 0, "seconds": 0.0}
    if state_file.exists():
        state = torch.load(state_file, map_location=device)
        pupil.load_state_dict(state["pupil"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    saved = started = time.monotonic()
    before = done["seconds"]
    for number in range(int(done["stage"]), len(stages)):
        stage = stages[number]
        first = int(done["step"]) if number == done["stage"] else 0
        lessons = Lessons(stage, seed, tokenizer)
        loader = DataLoader(
            lessons,
            batch_size=None,
            sampler=range(first, stage.steps),
            num_workers=1,
            prefetch_factor=4,
        )
        for step, batch in enumerate(loader, first):
            moved = _to(batch, device)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, stage, 50, last=number == len(stages) - 1)
            with torch.autocast(device, torch.bfloat16):
                loss, right = _learn(pupil, moved, stage, tokenizer)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
            optimizer.step()
            now = time.monotonic()
            if step % 20 == 0:
                click.echo(json.dumps(_line(stage, step, now - started + before, loss, right)))
            finished = step == stage.steps - 1
            if now - saved > SAVE_EVERY_S or finished:
                done = {
                    "stage": number + 1 if finished else number,
                    "step": 0 if finished else step + 1,
                    "seconds": now - started + before,
                }
                _save_state(state_file, pupil, optimizer, done)
                saved = now
    return pupil


def _learn(
    pupil: Pupil, batch: Batch, stage: Stage, tokenizer: object
) -> tuple[Tensor, dict[str, float]]:
    if stage.name == "cells":
        return pupil.cells_loss(batch)
    prefix = torch.tensor(prefix_ids(batch.pictures.shape[1], tokenizer))  # type: ignore[arg-type]
    logits = pupil.answers(batch, prefix.to(batch.pictures.device))
    right = {
        kind: sum(each) / len(each) for kind, each in right_answers(logits, batch).items()
    }
    return answer_loss(logits, batch), right


def _line(
    stage: Stage, step: int, seconds: float, loss: Tensor, right: dict[str, float]
) -> dict[str, object]:
    rounded = {kind: round(share, 3) for kind, share in sorted(right.items())}
    return {
        "stage": stage.name,
        "step": step,
        "seconds": round(seconds),
        "loss": round(float(loss), 4),
        **rounded,
    }


def _save_state(
    file: Path, pupil: Pupil, optimizer: torch.optim.Optimizer, done: dict[str, float]
) -> None:
    part = file.with_suffix(".part")
    state = {"pupil": pupil.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
    torch.save(state, part)
    part.replace(file)


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
