"""Pictures as processors make them: square ones of one size, and pixels. Knows no model family."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import get_size_dict

from batch.errors import ModelError
from batch.models.placement import device_of
from batch.video import Geometry


def square_geometry(
    name: str, settings: Mapping[str, Any], *, side_px: int, covered_px: int, cells_across: int
) -> Geometry:
    """The geometry of a processor that resizes or crops every frame to one square.

    Args:
        name: the checkpoint, for errors.
        settings: of its image or video processor, its class's defaults filled in.
        side_px: side of the picture that the vision tower takes.
        covered_px: side of the part of it that cells stand for.
        cells_across: cells in a row, and in a column.

    Raises:
        ModelError: the processor leaves out a step, or makes pictures of another size.
    """
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings[step]:
            raise ModelError(f"{name}: the processor has {step} false, supported is true")
    try:
        resized = get_size_dict(settings["size"], default_to_square=False)
        made = get_size_dict(settings["crop_size"]) if settings["do_center_crop"] else resized
        shortest_px = resized.get("shortest_edge") if settings["do_center_crop"] else None
        # Without shortest_edge the resize alone must give the picture; a crop of its size is none.
        is_one_size = shortest_px is not None or made == resized
        if (made.get("height"), made.get("width")) != (side_px, side_px) or not is_one_size:
            raise ModelError(
                f"{name}: the processor resizes to {resized} and makes pictures of {made}, "
                f"the vision tower expects {side_px}x{side_px} px"
            )
        return Geometry(
            height_px=side_px,
            width_px=side_px,
            rows=cells_across,
            columns=cells_across,
            covered_height_px=covered_px if covered_px < side_px else None,
            covered_width_px=covered_px if covered_px < side_px else None,
            fit="stretch" if shortest_px is None else "crop",
            shortest_px=shortest_px,
            resample=Image.Resampling(settings["resample"]).name.lower(),  # type: ignore[arg-type]  # checked there
        )
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error


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
