"""From a name to a model: its family, where it runs and in which type, then its weights."""

from dataclasses import dataclass

import torch

from batch.errors import DeviceError, ModelError
from batch.families import unsupported
from batch.models.checkpoint import open_checkpoint
from batch.models.family import Family
from batch.models.internvl import InternVL
from batch.models.llava import Llava
from batch.models.llava_next import LlavaNext
from batch.models.llava_next_video import LlavaNextVideo
from batch.models.llava_onevision import LlavaOnevision
from batch.models.placement import default_dtype, first_device
from batch.models.qwen2_5_vl import Qwen2_5VL
from batch.models.qwen2_vl import Qwen2VL
from batch.models.qwen3_vl import Qwen3VL
from batch.models.smolvlm import SmolVLM
from batch.settings import Attention, ModelSettings

FAMILIES: dict[str, type[Family]] = {
    "internvl": InternVL,
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_next_video": LlavaNextVideo,
    "llava_onevision": LlavaOnevision,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2_5VL,
    "qwen3_vl": Qwen3VL,
    "smolvlm": SmolVLM,
}
"""By the config's `model_type`, as in `batch.families`; tests compare the scores of each with
transformers' own."""


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A checkpoint of a known family, and how it will run: device (or "auto") and dtype by name."""

    family: Family
    device: str
    dtype: str
    attention: Attention

    def load(self) -> Family:
        """Load the weights as `Family.load` does, if they are not loaded yet."""
        if not self.family.is_loaded:
            self.family.load(
                device=self.device, dtype=getattr(torch, self.dtype), attention=self.attention
            )
        return self.family


def open_model(settings: ModelSettings) -> OpenModel:
    """Open a checkpoint and decide where and in which type it runs.

    Raises:
        DeviceError: torch cannot use the device here.
        ModelError: as of `open_family`.
    """
    device = _device(settings.device)
    family = open_family(settings.name, revision=settings.revision, offline=settings.offline)
    dtype = settings.dtype
    if dtype is None and family.checkpoint.quantised_by is not None:
        dtype = family.checkpoint.own_dtype
    elif dtype is None:
        dtype = default_dtype(first_device(device))
    return OpenModel(family=family, device=device, dtype=dtype, attention=settings.attention)


def open_family(name: str, *, revision: str | None = None, offline: bool = False) -> Family:
    """Open a checkpoint with the family that its `model_type` names; see `ModelSettings`.

    Raises:
        ModelError: nothing there, not a checkpoint, or a family we do not know.
    """
    checkpoint = open_checkpoint(name, revision=revision, offline=offline)
    family = FAMILIES.get(checkpoint.config.model_type)
    if family is None:
        raise ModelError(f"{name}: {unsupported(checkpoint.config.model_type)}")
    return family(checkpoint)


def _device(asked: str | None) -> str:
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "auto":
        return asked
    try:
        torch.zeros(1, device=asked).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise DeviceError(f"--device {asked}: torch cannot use it here: {reason}") from error
    return asked
