"""Taking the position out of stored keys, and putting another one in.

Keys are stored with their position's rotation applied (RoPE). Rotations can be undone, so rows
that a question needs can be moved together. The angles are the model's own, M-RoPE and scaling
included (transformers 5.23: `rotary_emb` of every decoder we support gives them ready to use).
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from batch.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Types of rotation that look at all positions of a pass; on CUDA that waits for the device."""
_INTERLEAVED = (
    *("cohere", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "glm", "glm4", "helium"),
    "llama4_text",
)
"""Decoders of transformers 5.23 that rotate neighbouring channels, not halves; nothing says so."""


class Rotation(NamedTuple):
    """What positions do to keys: cos and sin, float32 [tokens, channels that are rotated].

    Scaled rotations (YaRN) have the factor in both, so cos^2 + sin^2 is its square.
    """

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> "Rotation":
        return Rotation(cos=self.cos.to(device), sin=self.sin.to(device))


RotationOf = Callable[[Tensor], Rotation]
"""`rotation_of` the decoder of a model."""


def why_fixed(config: "PreTrainedConfig") -> str | None:
    """Why the keys of a model or decoder cannot be moved to other positions; None if they can."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None)
    if not rope:
        return f"{text.model_type}: positions are not rotations of the keys"
    kind = rope.get("rope_type", "default")
    if kind in LENGTH_DEPENDENT:
        return f"{text.model_type}: rotations of type {kind!r} depend on the length of the sequence"
    if text.model_type in _INTERLEAVED:
        return f"{text.model_type}: rotations of neighbouring channels are not supported"
    return None


def without_weights(config: "PreTrainedConfig") -> SimpleNamespace:
    """What `rotation_of` needs of the decoder of a model, on the CPU, without its weights."""
    from transformers import AutoModel

    text = config.get_text_config(decoder=True)
    with torch.device("meta"):
        decoder: Any = AutoModel.from_config(text)  # type: ignore[no-untyped-call]  # untyped in 5.23
    decoder = getattr(decoder, "language_model", decoder)
    return SimpleNamespace(
        config=text, device=torch.device("cpu"), rotary_emb=type(decoder.rotary_emb)(config=text)
    )


def rotation_of(language_model: "PreTrainedModel | SimpleNamespace", positions: Tensor) -> Rotation:
    """The rotation of positions, int [tokens, axes], by a decoder without its head.

    Raises:
        ModelError: a key does not tell by its position how it was rotated, see `why_fixed`.
    """
    reason = why_fixed(language_model.config)
    if reason is not None:
        raise ModelError(f"{reason}; keys cannot be moved to other positions")
    device = language_model.device
    ids = positions.long().T.to(device)[:, None]  # [axes, batch 1, tokens]
    like = torch.empty(0, dtype=torch.float32, device=device)
    with torch.no_grad():
        embedding: Any = language_model.rotary_emb
        cos, sin = embedding(like, ids[0] if len(ids) == 1 else ids)
    return Rotation(cos=cos[0], sin=sin[0])


def rotate(keys: Tensor, rotation: Rotation) -> Tensor:
    """Rotate keys [tokens, heads, head_dim] to positions; channels beyond the rotation's pass."""
    cos, sin = (part[:, None] for part in rotation)
    channels = cos.shape[-1]
    half = channels // 2
    rotated = keys[..., :channels].float()
    moved = rotated * cos
    moved[..., :half].addcmul_(rotated[..., half:], sin[..., :half], value=-1)
    moved[..., half:].addcmul_(rotated[..., :half], sin[..., half:])
    moved = moved.to(keys.dtype)
    return moved if channels == keys.shape[-1] else torch.cat((moved, keys[..., channels:]), dim=-1)


def between(source: Rotation, target: Rotation) -> Rotation:
    """What turns keys that stand at the source's positions to the target's; both [tokens, ...]."""
    square = source.cos.square() + source.sin.square()
    return Rotation(
        cos=(target.cos * source.cos + target.sin * source.sin) / square,
        sin=(target.sin * source.cos - target.cos * source.sin) / square,
    )


def unrotate(keys: Tensor, rotation: Rotation) -> Tensor:
    """Undo `rotate`; float32."""
    square = rotation.cos.square() + rotation.sin.square()
    back = Rotation(cos=rotation.cos / square, sin=-rotation.sin / square)
    return rotate(keys.float(), back)
