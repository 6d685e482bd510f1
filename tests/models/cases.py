"""Which clips each family is compared on with transformers, and how to read its pixels.

A new family needs a row here, and whoever runs `test_parity.py` sees whether it holds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from tests.tiny import qwen
from tests.tiny.families import TINY


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames RGB [frames, height, width, 3] at so many a second."""

    frames: NDArray[np.uint8]
    fps: float = 1.0
    is_scored: bool = True
    levels: int = 0
    """How many grey levels our resize may be off."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """How one family is compared."""

    write: Callable[..., Path]
    clips: dict[str, Clip]
    """The first is the one that is compressed, and its first frame is painted on."""
    kind: Literal["video", "image", "base image"] = "video"
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    cell_px: int | None = None
    """Side of a cell where the processor hands over patches in the order of cells."""
    unmixed: dict[str, Any] = field(default_factory=dict)
    """What makes `write` leave out all vision layers that let one patch see another."""


def draw_clip(frames: int, height_px: int, width_px: int, *, seed: int = 3) -> NDArray[np.uint8]:
    """Frames of blurred random blots, RGB [frames, height_px, width_px, 3]; no two alike."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(0, 256, (frames, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(blot, (width_px, height_px)) for blot in blots])


def noise(frames: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Frames of which each pixel is random, RGB [frames, height_px, width_px, 3]."""
    shape = (frames, height_px, width_px, 3)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def shown(frames: NDArray[np.uint8], **others: Any) -> Clip:
    """A clip that is not scored: its tokens, positions and pictures are compared."""
    return Clip(frames=frames, is_scored=False, **others)


def small_and_large(side_px: int) -> dict[str, Clip]:
    """For a family that makes squares of one size: one clip has it already."""
    return {
        "small": Clip(frames=draw_clip(5, side_px, side_px)),
        "large": shown(draw_clip(2, 90, 150), levels=2),
    }


def qwen_clips(*, odd_is_scored: bool = True) -> dict[str, Clip]:
    """For a family that makes samples of two frames, and grids of several sizes."""
    return {
        "even": Clip(frames=draw_clip(6, 24, 32)),
        "odd": Clip(frames=draw_clip(5, 24, 32), is_scored=odd_is_scored),
        "large": shown(draw_clip(2, 50, 70), levels=2),
    }


OUR_COLOURS = {"mean": np.array([0.5, 0.4, 0.3]), "deviation": np.array([0.2, 0.3, 0.4])}
"""Those that the tiny checkpoints name, so that channels cannot be mistaken for each other."""
CLIP_COLOURS = {"mean": np.array(OPENAI_CLIP_MEAN), "deviation": np.array(OPENAI_CLIP_STD)}
"""The defaults where a checkpoint names none."""

CASES = {
    "internvl": Case(
        write=TINY["internvl"],
        clips=small_and_large(56),
        mean=np.array([0.485, 0.456, 0.406]),
        deviation=np.array([0.229, 0.224, 0.225]),
        unmixed={"vision_layers": 0},
    ),
    "llava": Case(
        write=TINY["llava"],
        clips={"small": Clip(frames=draw_clip(5, 28, 28))},
        kind="image",
        unmixed={"vision_feature_layer": -4},
        **CLIP_COLOURS,
    ),
    "llava_next": Case(
        write=TINY["llava_next"],
        clips={"small": Clip(frames=noise(3, 40, 60)), "one": shown(noise(1, 40, 60))},
        kind="base image",
        **CLIP_COLOURS,
    ),
    "llava_next_video": Case(
        write=TINY["llava_next_video"],
        clips=small_and_large(56),
        unmixed={"vision_feature_layer": -4},
        **OUR_COLOURS,
    ),
    "llava_onevision": Case(
        write=TINY["llava_onevision"],
        clips=small_and_large(48),
        **CLIP_COLOURS,
    ),
    "qwen2_vl": Case(write=TINY["qwen2_vl"], clips=qwen_clips(), cell_px=8, **OUR_COLOURS),
    "qwen2_5_vl": Case(
        write=TINY["qwen2_5_vl"],
        clips={
            **qwen_clips(),
            # Samples stand at fractions of a position, which transformers cuts off.
            "fast": shown(draw_clip(20, 16, 16), fps=3.0),
        },
        cell_px=8,
        **OUR_COLOURS,
    ),
    "qwen3_vl": Case(
        write=partial(qwen.qwen3_vl, most_px=8192),
        clips={
            **qwen_clips(odd_is_scored=False),
            "long": shown(draw_clip(12, 24, 32), levels=2),
        },
        cell_px=8,
        **OUR_COLOURS,
    ),
    "smolvlm": Case(
        write=TINY["smolvlm"],
        clips={
            "small": Clip(frames=draw_clip(5, 60, 60)),
            "wide": shown(noise(2, 90, 150), levels=2),
            "tall": shown(noise(2, 90, 150).swapaxes(1, 2), levels=2),
        },
        mean=np.full(3, 0.5),
        deviation=np.full(3, 0.5),
        unmixed={"vision_layers": 0},
    ),
}
"""By the config's `model_type`."""
