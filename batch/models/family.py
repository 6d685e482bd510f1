"""What a model family must answer, and nothing else.

The geometry of a sample, the slots of a conversation, the features of some samples' cells, and
where the question goes. How blocks are run, stored and attended to is not its business.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from batch.errors import ModelError
from batch.kv import ATTENTIONS, Kernel, check_kernel, install, refuse_unsupported
from batch.models.checkpoint import Checkpoint
from batch.models.placement import Device, device_of, first_device, layer_devices
from batch.video import Footage, Geometry, GeometryRule


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


class Slots:
    """Collects the slots of a prefix in order."""

    def __init__(self) -> None:
        self._token_ids: list[NDArray[np.int32]] = []
        self._sample: list[NDArray[np.int32]] = []
        self._cell: list[NDArray[np.int32]] = []

    def text(self, token_ids: ArrayLike, sample: int = -1) -> None:
        """Add text or separators; `sample` is the one they belong to, -1 none."""
        ids = np.asarray(token_ids, np.int32)
        self._add(ids, sample, np.full(len(ids), -1, np.int32))

    def cells(self, token_id: int, sample: int, cells: int) -> None:
        """Add all cells of a sample."""
        ids = np.full(cells, token_id, np.int32)
        self._add(ids, sample, np.arange(cells, dtype=np.int32))

    def layout(self, positions: NDArray[np.int32] | None = None, next_position: int = 0) -> Layout:
        """The whole prefix.

        Args:
            positions: int32 [slots, axes]; None numbers the slots on one axis.
            next_position: where the question starts, on every axis of `positions`.
        """
        token_ids = np.concatenate(self._token_ids)
        axes = 1 if positions is None else positions.shape[1]
        if positions is None:
            positions = np.arange(len(token_ids), dtype=np.int32)[:, None]
            next_position = len(token_ids)
        return Layout(
            token_ids=token_ids,
            sample=np.concatenate(self._sample),
            cell=np.concatenate(self._cell),
            positions=positions,
            next_position=(next_position,) * axes,
        )

    def _add(self, ids: NDArray[np.int32], sample: int, cell: NDArray[np.int32]) -> None:
        self._token_ids.append(ids)
        self._sample.append(np.full(len(ids), sample, np.int32))
        self._cell.append(cell)


class Family(ABC):
    """A checkpoint of one family; its weights are absent until `load`."""

    model_type: ClassVar[str]
    limits: ClassVar[str]
    """What of the family is not supported or done otherwise; printed by `batch models`."""
    no_timestamps: ClassVar[str | None] = "a video is one block of cells, without text inside"
    """Why times cannot be put before samples; None where they can."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.timestamps = False
        self._model: PreTrainedModel | None = None

    @property
    @abstractmethod
    def geometry(self) -> GeometryRule:
        """How a video's frames become the pictures this model sees."""

    @property
    @abstractmethod
    def placeholder(self) -> str:
        """The text that stands for pictures in a prompt; a question must not hold it."""

    @abstractmethod
    def layout(self, footage: Footage) -> Layout:
        """Lay out the prefix of a video."""

    @abstractmethod
    def question_ids(self, question: str) -> list[int]:
        """Token ids behind the prefix: the question and all that the template puts around it."""

    @abstractmethod
    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        """Embeddings of cells, [samples, cells, hidden].

        Args:
            pictures: RGB [samples, frames * height_px, width_px, 3].
            geometry: theirs.
        """

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

    def use_timestamps(self) -> None:
        """Put its time before every sample that is laid out from now on.

        Raises:
            ModelError: the family's prompts have no place for it, or tell times anyway.
        """
        if self.no_timestamps is not None:
            raise ModelError(
                f"{self.checkpoint.name}: {self.model_type} takes no timestamps: "
                f"{self.no_timestamps}. Leave out --timestamps."
            )
        self.timestamps = True

    def times(self, footage: Footage) -> list[str]:
        """What to put before each sample: its time since the video's first frame, or nothing.

        Source: the wording of Qwen3-VL, which was trained with it (transformers 5.23).
        """
        if not self.timestamps:
            return [""] * len(footage)
        return [f"<{seconds:.1f} seconds>" for seconds in footage.pts_s - footage.start_s]

    def conversation_text(self, content: list[dict[str, Any]]) -> str:
        """A conversation in which the user sends this, up to the answer."""
        text: str = self.checkpoint.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.checkpoint.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def token_ids(self, text: str) -> NDArray[np.int64]:
        """Token ids of the text of a conversation."""
        tokenizer = self.checkpoint.tokenizer
        bos = tokenizer.bos_token
        opened = bos is not None and text.startswith(bos)
        return np.asarray(tokenizer(text, add_special_tokens=not opened).input_ids)

    def conversation_ids(self, content: list[dict[str, Any]]) -> NDArray[np.int64]:
        """Token ids of a conversation in which the user sends this, up to the answer."""
        return self.token_ids(self.conversation_text(content))

    def load(self, *, device: Device, dtype: torch.dtype, attention: Kernel = "auto") -> None:
        """Load the weights onto their devices, ready for attention over tiers.

        Args:
            dtype: type to compute in; of a quantised checkpoint, what is not quantised has it.
            attention: what attends to the stored tiers.

        Raises:
            ModelError: the weights are missing or damaged, the decoder has a feature that
                attention over tiers does not support, or the device cannot do what is asked.
        """
        refuse_unsupported(self.config)
        check_kernel(attention, first_device(device))
        install()
        self._model = self.checkpoint.load_weights(dtype=dtype, device=device)
        self.language_model.set_attn_implementation(ATTENTIONS[attention])

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model."""
        if self._model is None:
            raise ModelError(f"{self.checkpoint.name}: the weights are not loaded")
        return self._model

    @property
    def device(self) -> torch.device:
        """Where embeddings come from and scores go to; the first of a sharded model."""
        return device_of(self.model.get_input_embeddings())

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each layer of the decoder keeps its keys and values."""
        return layer_devices(self.language_model, self.decoder.layers)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, [..., vocabulary], of the decoder's last states."""
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]  # untyped in 5.23
        scores: Tensor = head(hidden)
        return scores.to(self.device)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.checkpoint.tokenizer.eos_token_id
        if stop is None:
            return frozenset()
        return frozenset([stop] if isinstance(stop, int) else stop)


def pixel_values(
    frames: NDArray[np.uint8], settings: Mapping[str, Any], model: PreTrainedModel
) -> Tensor:
    """Frames as a vision tower takes them.

    Args:
        frames: RGB [frames, height, width, 3].
        settings: `image_mean`, `image_std` and `rescale_factor`, as `Checkpoint.pictures` has them.
        model: tells device (a sharded one moves them on by itself) and dtype.

    Returns:
        [frames, 3, height, width].
    """
    device = device_of(model.get_input_embeddings())
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(settings["image_mean"], device=device)[:, None, None]
    deviation = torch.tensor(settings["image_std"], device=device)[:, None, None]
    normal: Tensor = (pixels * settings["rescale_factor"] - mean) / deviation
    return normal.to(model.dtype)
