"""The judge in training: a frozen tower, a projector, and a decoder with low-rank adapters."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from batch.demo.world import COLOURS, COLUMNS, ROWS
from batch.evaluation.training.adapter import Adapter
from batch.evaluation.training.checkpoint import CELLS
from batch.evaluation.training.examples import THINGS, Batch
from batch.evaluation.training.student import packed_scores
from batch.models import Family
from batch.models.pictures import pixel_values
from batch.video import Footage

_SIDE = int(CELLS**0.5)
_THINGS = ("nothing", *(thing for thing in THINGS[1:] if not thing.isdigit()), "digit")
_DIGITS = tuple("0123456789")
_SHARPNESS = 8.0
"""Scores of a cell that is exactly a word's embedding, above those of the mean word."""


class FamilyPrompts:
    """Questions as the product's family puts them."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._texts: dict[str, list[int]] = {}

    def prefix_ids(self, samples: int) -> list[int]:
        footage = Footage.steady(self._family.geometry.for_video(0, 0, 1), samples)
        ids: list[int] = self._family.layout(footage).token_ids.tolist()
        return ids

    def question_ids(self, question: str) -> list[int]:
        if question not in self._texts:
            self._texts[question] = self._family.question_ids(question)
        return self._texts[question]

    def answer_ids(self, answer: str) -> list[int]:
        tokenizer = self._family.checkpoint.tokenizer
        ids: list[int] = tokenizer(f" {answer}", add_special_tokens=False).input_ids
        return [*ids, tokenizer.eos_token_id]


class JudgeStudent(nn.Module):
    """A `llava` model of which the projector and low-rank adapters are trained."""

    def __init__(self, model: LlavaForConditionalGeneration, family: Family, rank: int) -> None:
        super().__init__()
        self.model = model
        self.prompts = FamilyPrompts(family)
        self.adapter = Adapter(model, rank)
        self._settings = family._pictures
        self._words = _WordGroups(model, family)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What the projector takes, [pictures, cells, width], of uint8 [pictures, h, w, 3]."""
        inner = self.model.model
        pixels = pixel_values(pictures.cpu().numpy(), self._settings, self.model)
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.model.config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat(chosen, dim=-1)[:, 1:]

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Let the projector begin with features of mean 0 and deviation 1."""
        flat = features.flatten(0, -2).float()
        first = self.adapter.projector.get_submodule("linear_1")
        if not isinstance(first, nn.Linear):
            raise TypeError(f"projector: got {type(first).__name__} first, expected Linear")
        first.weight /= flat.std(0).clamp(min=1e-3)
        first.bias.copy_(-first.weight @ flat.mean(0))

    def cells_loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """How far cells are from the words for what they show; labels as of `cell_labels`."""
        return self._words.loss(self.adapter.projector(features), labels)

    def answers(self, batch: Batch) -> Tensor:
        """Scores [asked, vocabulary] where an answer's tokens are expected, in order."""
        videos, samples = batch.pictures.shape[:2]
        prefix = torch.tensor(self.prompts.prefix_ids(samples), device=batch.tokens.device)
        cells = self.adapter.projector(self.features(batch.pictures.flatten(0, 1)))
        before = self.model.get_input_embeddings()(prefix).expand(videos, -1, -1).clone()
        is_cell = prefix == self.model.config.image_token_index
        before[:, is_cell] = cells.view(videos, -1, cells.shape[-1]).to(before.dtype)
        return packed_scores(self.model, before, batch)


def cell_labels(batch: Batch) -> Tensor:
    """What each cell shows, int64 [pictures, cells, 5] of the groups' words; -1 is no word."""
    things, colours = batch.things.flatten(0, 1), batch.colours.flatten(0, 1)
    dots = batch.dots.flatten()[:, None]
    place = torch.arange(CELLS, device=things.device)
    lanes = 3 * torch.stack([place // _SIDE, place % _SIDE], -1) // _SIDE
    names = [_THINGS.index(thing if thing in _THINGS else "digit") for thing in THINGS]
    digits = [_DIGITS.index(thing) if thing in _DIGITS else -1 for thing in THINGS]
    number = torch.tensor(digits, device=things.device)[things]
    number = torch.where(things == THINGS.index("dots"), dots.expand_as(things), number)
    return torch.stack(
        [
            torch.tensor(names, device=things.device)[things],
            colours - 1,
            number,
            *lanes.expand(len(things), -1, -1).unbind(-1),
        ],
        dim=-1,
    )


class _WordGroups(nn.Module):
    """The decoder's own embeddings of the words for what a cell can show, in groups.

    A cell is to be the sum of its words' embeddings, so that the decoder finds in it what it
    would find in text.
    """

    names = ("thing", "colour", "number", "row", "column")

    def __init__(self, model: LlavaForConditionalGeneration, family: Family) -> None:
        super().__init__()
        vocabularies = (_THINGS, COLOURS, _DIGITS, ROWS, COLUMNS)
        for name, words in zip(self.names, vocabularies, strict=True):
            meanings = torch.stack([_meaning(word, model, family) for word in words])
            self.register_buffer(name, meanings, persistent=False)

    def loss(self, cells: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of each group's words, and the distance to the sum of the right ones."""
        cells = cells.float()
        wanted, loss = torch.zeros_like(cells), cells.new_zeros(())
        right = {}
        is_full = labels[..., 0] > 0
        for group, name in enumerate(self.names):
            words, label = self.get_buffer(name), labels[..., group]
            centred = words - words.mean(0)
            length = centred.norm(dim=-1).mean()
            scores = (cells - words.mean(0)) @ centred.T * (_SHARPNESS / length**2)
            has = label >= 0
            own = functional.cross_entropy(
                scores.flatten(0, -2), label.flatten(), ignore_index=-1, reduction="none"
            ).view_as(label)
            parts = [has & is_full, has & ~is_full]
            loss = loss + sum(own[part].mean() for part in parts if part.any())
            right[name] = float((scores.argmax(-1) == label)[parts[0]].float().mean())
            wanted = wanted + words[label.clamp(min=0)] * has[..., None]
        variance = self.get_buffer("thing").var()
        apart = (cells - wanted).square().mean(-1) / variance
        return loss + 0.3 * (apart[is_full].mean() + apart[~is_full].mean()), right


def _meaning(word: str, model: LlavaForConditionalGeneration, family: Family) -> Tensor:
    """The mean embedding of a word's tokens; a digit is its last one, behind the space."""
    ids = family.checkpoint.tokenizer(f" {word}", add_special_tokens=False).input_ids
    chosen = ids[-1:] if word.isdigit() else ids
    with torch.no_grad():
        embedded: Tensor = model.get_input_embeddings()(torch.tensor(chosen))
    return embedded.float().mean(0)
