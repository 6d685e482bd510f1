"""Square pictures of one size, as CLIP-like processors make them. Knows no model family."""

from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers.image_processing_utils import get_size_dict

from batch.errors import ModelError
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
