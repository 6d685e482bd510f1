"""The model in training, and its losses on cells and on answers."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

from batch.demo.questions import KINDS
from batch.demo.world import COLOURS, GROUNDS
from batch.evaluation.training.checkpoint import CELLS, new_model
from batch.evaluation.training.examples import IGNORED, THINGS, Batch

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class StudentModel(nn.Module):
    """The model with the linear heads that stage "cells" reads the vision tower by."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.model: LlavaNextForConditionalGeneration = new_model(vocabulary)
        width = self.model.model.multi_modal_projector.linear_1.in_features
        self.sizes = (len(THINGS), len(COLOURS) + 1, len(GROUNDS))
        self.heads = nn.Linear(width, sum(self.sizes))

    def _cell_states(self, pictures: Tensor) -> Tensor:
        """Vision tower output, [pictures, cells, width], of uint8 [pictures, h, w, 3]."""
        mean = torch.tensor(_MEAN, device=pictures.device)
        deviation = torch.tensor(_DEVIATION, device=pictures.device)
        pixels = ((pictures.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
        tower = self.model.model.vision_tower(pixels, output_hidden_states=True)
        states: Tensor = tower.hidden_states[-1][:, 1:]
        return states

    def cells_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of what each cell shows, and the share of right shapes and colours."""
        states = self._cell_states(batch.pictures.flatten(0, 1))
        thing, colour, ground = self.heads(states).float().split(self.sizes, dim=-1)
        things, colours = batch.things.flatten(0, 1), batch.colours.flatten(0, 1)
        grounds = batch.grounds.flatten().unsqueeze(-1).expand(-1, CELLS)
        loss = (
            functional.cross_entropy(thing.flatten(0, 1), things.flatten())
            + functional.cross_entropy(colour.flatten(0, 1), colours.flatten())
            + 0.2 * functional.cross_entropy(ground.flatten(0, 1), grounds.flatten())
        )
        full = things > 0
        return loss, {
            "thing": float((thing.argmax(-1) == things)[full].float().mean()),
            "colour": float((colour.argmax(-1) == colours)[full].float().mean()),
        }

    def answers(self, batch: Batch, prefix: Tensor) -> Tensor:
        """Logits [asked, vocabulary] of the packed answers' tokens behind the videos."""
        inner = self.model.model
        videos, samples = batch.pictures.shape[:2]
        cells = inner.multi_modal_projector(self._cell_states(batch.pictures.flatten(0, 1)))
        newline = inner.image_newline.expand(videos * samples, 1, -1).to(cells.dtype)
        pictures = torch.cat([cells, newline], 1).view(videos, -1, cells.shape[-1])
        embed = inner.get_input_embeddings()
        start = embed(prefix[:2]).expand(videos, -1, -1).to(cells.dtype)
        return packed_scores(self.model, torch.cat([start, pictures], 1), batch)


def packed_scores(
    model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration,
    prefix: Tensor,
    batch: Batch,
) -> Tensor:
    """Scores [asked, vocabulary] where an answer's tokens are expected, in order.

    Args:
        prefix: embedded, [videos, slots, width].
    """
    inner, slots = model.model, prefix.shape[1]
    questions = inner.get_input_embeddings()(batch.tokens).to(prefix.dtype)
    positions = torch.arange(slots, device=prefix.device).expand(len(prefix), -1)
    hidden = inner.language_model(
        inputs_embeds=torch.cat([prefix, questions], 1),
        attention_mask=_mask(batch.owners, slots),
        position_ids=torch.cat([positions, batch.positions], 1),
        use_cache=False,
    ).last_hidden_state
    scores: Tensor = model.lm_head(hidden[:, slots:][batch.targets != IGNORED])
    return scores


def _mask(owners: Tensor, slots: int) -> Tensor:
    """Bool [videos, 1, all, all]: causal, and a question sees the prefix and itself only."""
    videos, packed = owners.shape
    whole = torch.cat([owners.new_full((videos, slots), -2), owners], 1)
    size = slots + packed
    causal = torch.ones(size, size, dtype=torch.bool, device=owners.device).tril()
    same = (whole[:, None] == whole[:, :, None]) | (whole[:, None] == -2)
    return (same & causal).unsqueeze(1)


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of answer tokens; a longer answer counts by the root of its length.

    Args:
        logits: [asked, vocabulary], of the tokens that have a target.
    """
    target = batch.targets
    asked = target != IGNORED
    losses = functional.cross_entropy(logits.float(), target[asked], reduction="none")
    same = (batch.owners[:, None] == batch.owners[:, :, None]) & asked[:, None]
    weight = same.sum(-1).clamp(min=1).float().rsqrt()[asked]
    return (losses * weight).sum() / weight.sum()


def right_answers(logits: Tensor, batch: Batch) -> dict[str, list[bool]]:
    """For each kind, whether each answer is right to the last token under greedy decoding.

    Args:
        logits: [asked, vocabulary], of the tokens that have a target.
    """
    asked = batch.targets != IGNORED
    wrong = torch.zeros_like(asked)
    wrong[asked] = logits.argmax(-1) != batch.targets[asked]
    found: dict[str, list[bool]] = {}
    for video, kinds in enumerate(batch.kinds.tolist()):
        for question, kind in enumerate(kinds):
            if kind >= 0:
                failed = bool(wrong[video][batch.owners[video] == question].any())
                found.setdefault(KINDS[kind], []).append(not failed)
    return found
