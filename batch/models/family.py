"""What a model family must answer, and nothing else.

The geometry of a sample, the slots of a conversation, the features of some samples' cells, and
where the question goes. How blocks are run, stored and attended to is not its business.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from batch.errors import ModelError
from batch.kv import ATTENTION, install, refuse_unsupported
from batch.models.checkpoint import Checkpoint
from batch.video.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The slots of a whole prefix in order, as the model's own processor lays them out.

    A text slot before a sample belongs to that sample; the text before all samples to none.
    """

    token_ids: NDArray[np.int32]
    """[slots]; the image token's id where a picture's embedding goes."""
    sample: NDArray[np.int32]
    """[slots]; -1 is text outside samples."""
    cell: NDArray[np.int32]
    """[slots]; -1 is text or a separator."""
    positions: NDArray[np.int32]
    """[slots, axes]"""
    next_position: tuple[int, ...]
    """Where the question starts, one number an axis."""

    def __post_init__(self) -> None:
        slots = len(self.token_ids)
        shapes = self.sample.shape, self.cell.shape, self.positions.shape[:1]
        if any(shape != (slots,) for shape in shapes):
            raise ValueError(f"a layout of {slots} slots has arrays of shapes {shapes}")


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of the K and V that a decoder makes."""

    layers: int
    heads: int
    head_dim: int
    context: int
    """Positions the decoder was trained for."""


class Family(ABC):
    """A checkpoint of one family; its weights are absent until `load`."""

    model_type: ClassVar[str]

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self._model: PreTrainedModel | None = None

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """How a frame becomes the picture this model sees."""

    @abstractmethod
    def layout(self, samples: int) -> Layout:
        """Lay out the prefix of a video of that many samples."""

    @abstractmethod
    def question_ids(self, question: str, samples: int) -> list[int]:
        """Token ids behind the prefix: the question and all that the template puts around it."""

    @abstractmethod
    def features(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Embeddings of cells; [samples, cells, hidden] of [samples, height, width, 3] RGB."""

    @abstractmethod
    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        """Embeddings [n, hidden] of slots that are not cells; token_ids is int64 [n]."""

    @property
    @abstractmethod
    def language_model(self) -> PreTrainedModel:
        """The decoder without its head."""

    @property
    def decoder(self) -> DecoderShape:
        """Sizes of the decoder, from the config alone."""
        text = self.config.get_text_config(decoder=True)
        heads = text.num_attention_heads
        return DecoderShape(
            layers=text.num_hidden_layers,
            heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            context=text.max_position_embeddings,
        )

    def load(self, *, device: str, dtype: torch.dtype) -> None:
        """Load the weights onto a device, ready for attention over tiers.

        Raises:
            ModelError: the weights are missing or damaged, or the decoder has a feature that
                attention over tiers does not support.
        """
        refuse_unsupported(self.config)
        install()
        model = self.checkpoint.load_weights(dtype=dtype)
        nn.Module.to(model, device)
        model.train(False)
        self._model = model
        self.language_model.set_attn_implementation(ATTENTION)

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model."""
        if self._model is None:
            raise ModelError(f"{self.checkpoint.name}: the weights are not loaded")
        return self._model

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, [..., vocabulary], of the decoder's last states."""
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]  # untyped in 5.23
        scores: Tensor = head(hidden)
        return scores

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.checkpoint.tokenizer.eos_token_id
        if stop is None:
            return frozenset()
        return frozenset([stop] if isinstance(stop, int) else stop)
