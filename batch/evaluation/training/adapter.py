"""Low-rank adapters in the linear layers of a decoder, kept in one file with a projector.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685: to a
frozen W is added (alpha / rank) B A, with B zero at first, so that training starts at W.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from batch.errors import BatchError

_ALPHA = 2.0
"""By which the product of an adapter's factors is multiplied, whatever the rank."""


class LowRank(nn.Module):
    """A frozen linear layer, and the product of two narrow ones beside it."""

    def __init__(self, whole: nn.Linear, rank: int) -> None:
        super().__init__()
        self.whole = whole
        like = whole.weight
        self.down = nn.Parameter(like.new_empty(rank, whole.in_features, dtype=torch.float32))
        self.up = nn.Parameter(like.new_zeros(whole.out_features, rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, states: Tensor) -> Tensor:
        narrow = functional.linear(states, self.down.to(states.dtype))
        beside = functional.linear(narrow, self.up.to(states.dtype))
        whole: Tensor = self.whole(states)
        return whole + _ALPHA * beside

    def merged(self) -> nn.Linear:
        """The linear layer with the product added to its weights."""
        with torch.no_grad():
            self.whole.weight += (_ALPHA * self.up @ self.down).to(self.whole.weight.dtype)
        return self.whole


class Adapter:
    """What is trained of a model: its projector, and low-rank adapters in the whole decoder."""

    def __init__(self, model: LlavaForConditionalGeneration, rank: int) -> None:
        """Freeze the model and put adapters into the linear layers of its decoder."""
        self._model, self.rank = model, rank
        model.requires_grad_(False)
        self.projector: nn.Module = model.model.multi_modal_projector
        self.projector.requires_grad_(True)
        layers = model.model.language_model.layers
        self._places = [
            (f"{number}.{name}", module)
            for number, layer in enumerate(layers)
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        ]
        for place, module in self._places:
            layers.set_submodule(place, LowRank(module, rank))

    @property
    def low_rank(self) -> dict[str, LowRank]:
        layers = self._model.model.language_model.layers
        return {place: layers.get_submodule(place) for place, _ in self._places}

    def tensors(self) -> dict[str, nn.Parameter]:
        """Every trained tensor by the name that it has in a file."""
        projector = {f"projector.{name}": it for name, it in self.projector.named_parameters()}
        of_layers = {
            f"layers.{place}.{name}": getattr(one, name)
            for place, one in self.low_rank.items()
            for name in ("down", "up")
        }
        return {**projector, **of_layers}

    def save(self, file: Path, card: dict[str, Any]) -> None:
        """Write the tensors in float16, and in the same file their rank and how they came to be."""
        half = {name: it.detach().half().cpu().contiguous() for name, it in self.tensors().items()}
        part = file.with_suffix(".part")
        save_file(half, part, {"card": json.dumps({"rank": self.rank, **card})})
        part.replace(file)

    def load(self, file: Path) -> None:
        """Take the tensors of a file.

        Raises:
            BatchError: they are not those of this model at this rank.
        """
        tensors = self.tensors()
        try:
            stored = load_file(file)
        except SafetensorError as error:
            raise BatchError(f"{file}: not an adapter: {error}") from error
        for name in {**tensors, **stored}:
            got, expected = (
                tuple(each[name].shape) if name in each else None for each in (stored, tensors)
            )
            if got != expected:
                raise BatchError(
                    f"{file}: not an adapter of this model: {name} has the shape {got}, "
                    f"expected {expected}"
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(stored[name])

    def merge(self) -> None:
        """Add every adapter to its layer; the model is then an ordinary one."""
        for place, one in self.low_rank.items():
            self._model.model.language_model.layers.set_submodule(place, one.merged())


def read_card(file: Path) -> dict[str, Any]:
    """How the adapter of a file came to be, as training wrote it.

    Raises:
        BatchError: it is no such file.
    """
    try:
        with safe_open(file, "pt") as stored:
            card: dict[str, Any] = json.loads(stored.metadata()["card"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise BatchError(f"{file}: not an adapter that training wrote: {error}") from error
    return card


def load_adapter(model: LlavaForConditionalGeneration, file: Path) -> Adapter:
    """Put the adapter of a file into a model, of the rank that it was trained with."""
    adapter = Adapter(model, read_card(file)["rank"])
    adapter.load(file)
    return adapter
