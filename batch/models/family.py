"""What a model family must answer, and nothing else.

The geometry of a sample, the slots of a conversation, the features of some samples' cells, and
where the question goes. How blocks are run, stored and attended to is not its business.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from batch.errors import ModelError
from batch.kv import ATTENTIONS, Kernel, check_kernel, install, refuse_unsupported
from batch.kv.rotation import Rotation, rotation_of, without_weights
from batch.models.checkpoint import Checkpoint
from batch.models.placement import Device, device_of, first_device
from batch.video import Footage, Geometry, GeometryRule

_TAG = re.compile(r"<\S+>")


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
    """Sizes of the keys and values that a decoder makes, from the config alone."""

    layers: int
    heads: int
    head_dim: int
    context: int
    """Positions the decoder was trained for."""


class Slots:
    """Collects the slots of a prefix in order."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int32]] = []  # token id, sample and cell of some slots each

    def text(self, token_ids: ArrayLike, sample: int = -1) -> None:
        """Add text or separators; `sample` is the one they belong to, -1 none."""
        self._add(token_ids, sample, -1)

    def cells(self, token_id: int, sample: int, cells: int) -> None:
        self._add(token_id, sample, np.arange(cells))

    def layout(self, positions: NDArray[np.int32] | None = None, next_position: int = 0) -> Layout:
        """The whole prefix; without positions [slots, axes], slots are numbered on one axis."""
        token_ids, sample, cell = np.concatenate(self._parts, axis=1)
        axes = 1 if positions is None else positions.shape[1]
        if positions is None:
            positions = np.arange(len(token_ids), dtype=np.int32)[:, None]
            next_position = len(token_ids)
        return Layout(
            token_ids=token_ids,
            sample=sample,
            cell=cell,
            positions=positions,
            next_position=(next_position,) * axes,
        )

    def _add(self, token_ids: ArrayLike, sample: int, cell: ArrayLike) -> None:
        columns = np.broadcast_arrays(token_ids, sample, cell)
        self._parts.append(np.stack(columns).astype(np.int32))


def time_text(seconds: float) -> str:
    """A time in a prompt. Source: Qwen3-VL, which was trained with it (transformers 5.23)."""
    return f"<{seconds:.1f} seconds>"


class Family(ABC):
    """A checkpoint of one family; its weights are absent until `load`."""

    model_type: ClassVar[str]
    no_timestamps: ClassVar[str | None] = "a video is one block of cells, without text inside"
    """Why times cannot be put before samples; None where they can."""
    kind: ClassVar[Literal["image", "video"]] = "video"
    """What the chat template and the processor are given: an image a sample, or a video."""
    picture_token: ClassVar[str] = "video_token_id"
    """Setting of the config: the token that stands in a prompt for an image, or for the video."""
    defaults: ClassVar[dict[str, Any]]
    """What the family's processor does where the checkpoint's files say nothing."""
    required: ClassVar[dict[str, object]] = {}
    """Settings of the config of which no other value is supported."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        for name, value in self.required.items():
            got = getattr(self.config, name)
            if got != value:
                raise ModelError(f"{checkpoint.name}: {name} is {got!r}, supported is {value!r}")
        self.picture_id: int = getattr(self.config, self.picture_token)
        self._pictures = self.defaults | checkpoint.pictures(self.kind)
        self.timestamps = False
        self._model: PreTrainedModel | None = None

    @property
    @abstractmethod
    def geometry(self) -> GeometryRule:
        """How a video's frames become the pictures this model sees."""

    @abstractmethod
    def layout(self, footage: Footage) -> Layout:
        """Lay out the prefix of a video."""

    def question_ids(self, question: str, *later: str) -> list[int]:
        """Token ids behind the prefix: the question and all that the template puts around it.

        later: the answer to it, the next question, and so on, up to the question to be answered.
        """
        return [int(i) for i in self.texts_around_only(question, *later)[1]]

    @abstractmethod
    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        """Embeddings of cells, [samples, cells, hidden].

        Args:
            pictures: RGB [samples, frames * height_px, width_px, 3].
        """

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        """Embeddings [n, hidden] of slots that are not cells; token_ids is int64 [n]."""
        embedded: Tensor = self.model.model.get_input_embeddings()(token_ids)
        return embedded

    @property
    def language_model(self) -> PreTrainedModel:
        """The decoder without its head."""
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder

    def rotation(self, positions: Tensor) -> Rotation:
        """What positions int [tokens, axes] do to keys; the weights need not be loaded.

        Raises:
            ModelError: as of `rotation_of`.
        """
        return rotation_of(self.language_model if self.is_loaded else self._rotary, positions)

    @cached_property
    def _rotary(self) -> SimpleNamespace:
        return without_weights(self.config)

    @property
    def placeholder(self) -> str:
        """The text that stands for pictures in a prompt; a question must not hold it."""
        text: str = self.checkpoint.tokenizer.convert_ids_to_tokens(self.picture_id)
        return text

    def control_tokens(self, question: str) -> list[str]:
        """What of a question the model would take for its own marks instead of text."""
        added = self.checkpoint.tokenizer.added_tokens_decoder.values()
        # Whitespace of its own is text; what looks like a tag is none even if it is not "special".
        marks = {str(token) for token in added if token.special or _TAG.fullmatch(str(token))}
        found = {mark for mark in marks | {self.placeholder} if mark.strip() and mark in question}
        return sorted(found)

    @property
    def decoder(self) -> DecoderShape:
        text = self.config.get_text_config(decoder=True)
        heads = text.num_attention_heads
        return DecoderShape(
            layers=text.num_hidden_layers,
            heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            context=text.max_position_embeddings,
        )

    def use_timestamps(self) -> None:
        """Put its time before every sample laid out from now on; see `no_timestamps`."""
        if self.no_timestamps is not None:
            raise ModelError(
                f"{self.checkpoint.name}: {self.model_type} takes no timestamps: "
                f"{self.no_timestamps}. Leave out --timestamps."
            )
        self.timestamps = True

    def times(self, footage: Footage) -> list[str]:
        """What to put before each sample: its time since the video's first frame, or nothing."""
        if not self.timestamps:
            return [""] * len(footage)
        return [time_text(seconds) for seconds in footage.pts_s - footage.start_s]

    def conversation_text(self, content: list[dict[str, Any]], *later: str) -> str:
        """A conversation in which the user sends this, up to the answer.

        later: what the assistant then said, the user, the assistant, ...
        """
        messages = [{"role": "user", "content": content}]
        for role, said in zip(cycle(("assistant", "user")), later, strict=False):
            messages.append({"role": role, "content": [{"type": "text", "text": said}]})
        text: str = self.checkpoint.tokenizer.apply_chat_template(
            messages,
            chat_template=self.checkpoint.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def token_ids(self, text: str) -> NDArray[np.int64]:
        tokenizer = self.checkpoint.tokenizer
        bos = tokenizer.bos_token
        opened = bos is not None and text.startswith(bos)
        return np.asarray(tokenizer(text, add_special_tokens=not opened).input_ids)

    def texts_around(self, token_ids: NDArray[np.int64], pictures: int) -> list[NDArray[np.int64]]:
        """The text before, between and behind so many pictures, without the pictures' own tokens.

        Refuses a chat template that leaves one out, or a tokenizer that does not know the token.
        """
        places = np.flatnonzero(token_ids == self.picture_id)
        if len(places) != pictures:
            raise ModelError(
                f"{self.checkpoint.name}: the chat template gives {len(places)} tokens "
                f"{self.picture_id} for {pictures} pictures"
            )
        before, *others = np.split(token_ids, places)
        return [before, *(text[1:] for text in others)]

    def texts_around_only(
        self, question: str | None = None, *later: str
    ) -> list[NDArray[np.int64]]:
        """Token ids before and behind the only picture, or video, of a conversation."""
        asked = [] if question is None else [{"type": "text", "text": question}]
        ids = self.token_ids(self.conversation_text([{"type": self.kind}, *asked], *later))
        return self.texts_around(ids, 1)

    def lay_out_frames(
        self,
        texts: Sequence[ArrayLike],
        plain: NDArray[np.int64],
        footage: Footage,
        *,
        closing: int,
    ) -> Layout:
        """Lay out samples each behind text of its own.

        Args:
            texts: token ids before, between and behind the samples, as of `texts_around`.
            plain: token ids of a conversation that tells nothing of the first sample, up to it.
                What both begin with stands before any video; the rest is of the first sample, as
                is a token in which they run into each other.
            closing: so many tokens behind a sample belong to it.
        """
        first, *others, end = map(np.asarray, texts)
        longest = min(len(first), len(plain))
        shared = int(np.argmax(np.append(first[:longest] != plain[:longest], True)))
        slots = Slots()
        slots.text(first[:shared])
        slots.text(first[shared:], 0)
        for sample, behind in enumerate([*others, end[:closing]]):
            slots.cells(self.picture_id, sample, footage.geometry.cells)
            slots.text(behind[:closing], sample)
            slots.text(behind[closing:], sample + 1)
        return slots.layout()

    def load(self, *, device: Device, dtype: torch.dtype, attention: Kernel = "auto") -> None:
        """Load the weights onto their devices, ready for attention over tiers.

        Of a quantised checkpoint, what is not quantised has `dtype`.

        Raises:
            ModelError: the weights are missing, damaged, do not fit the config or compute in
                another type; something they need is not installed; attention over tiers does not
                support the decoder; or the device cannot do what is asked.
        """
        refuse_unsupported(self.config)
        check_kernel(attention, first_device(device))
        install()
        self._model = self.checkpoint.load_weights(dtype=dtype, device=device)
        self._attention = ATTENTIONS[attention]
        self.attend_over_tiers()

    def attend_over_tiers(self) -> None:
        """Attend as `load` was told, after transformers' own attention was in use."""
        decoder = self.language_model
        if decoder.config._attn_implementation != self._attention:
            decoder.set_attn_implementation(self._attention)

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> PreTrainedModel:
        if self._model is None:
            raise ModelError(f"{self.checkpoint.name}: the weights are not loaded")
        return self._model

    @property
    def device(self) -> torch.device:
        """Where embeddings come from and scores go to; the first of a sharded model."""
        return device_of(self.model.get_input_embeddings())

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each layer of the decoder attends, and so keeps its keys and values."""
        modules = self.language_model.modules()
        numbered = {getattr(module, "layer_idx", None): module for module in modules}
        return [device_of(numbered[layer]) for layer in range(self.decoder.layers)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, [..., vocabulary], of the decoder's last states."""
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]  # untyped in 5.23
        scores: Tensor = head(hidden)
        return scores.to(self.device)

    @property
    def stop_ids(self) -> frozenset[int]:
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.checkpoint.tokenizer.eos_token_id
        if stop is None:
            return frozenset()
        return frozenset([stop] if isinstance(stop, int) else stop)
