"""Square pictures of one size, which several families see, and pixels for vision towers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import get_size_dict
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.errors import ModelError
from batch.models.family import Family, Layout, Slots
from batch.models.placement import device_of
from batch.video import Footage, Geometry

CLIP_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,  # bicubic
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}
"""Source: CLIPImageProcessor, LlavaNextImageProcessor and LlavaNextVideoVideoProcessor of
transformers 5.23; its other processors depart from them as their families say."""


class SquareFamily(Family):
    """A family whose processor resizes or crops every frame to one square.

    A video is one block of cells, unless a family lays out something else.
    """

    defaults: ClassVar[dict[str, Any]] = CLIP_DEFAULTS
    has_newline: ClassVar[bool] = False
    """Whether the newline embedding closes the block; its slot has the picture's token."""

    def square_geometry(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        side_px: int,
        covered_px: int,
        cells_across: int,
    ) -> Geometry:
        """The geometry of pictures as the vision tower takes them, if the processor makes them so.

        Args:
            settings: of the image or video processor; None: as they are.
            covered_px: side of the part that cells stand for.
            cells_across: cells in a row, and in a column.
        """
        name, settings = self.checkpoint.name, settings or self._pictures
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not settings[step]:
                raise ModelError(f"{name}: the processor has {step} false, supported is true")
        try:
            resized = get_size_dict(settings["size"], default_to_square=False)
            made = get_size_dict(settings["crop_size"]) if settings["do_center_crop"] else resized
            shortest_px = resized.get("shortest_edge") if settings["do_center_crop"] else None
            # Without shortest_edge the resize alone must give the picture.
            is_one_size = shortest_px is not None or made == resized
            if (made.get("height"), made.get("width")) != (side_px, side_px) or not is_one_size:
                raise ModelError(
                    f"{name}: the processor resizes to {resized} and makes pictures of {made}, "
                    f"the vision tower expects {side_px}x{side_px} px"
                )
            part_px = covered_px if covered_px < side_px else None
            return Geometry(
                height_px=side_px,
                width_px=side_px,
                rows=cells_across,
                columns=cells_across,
                covered_height_px=part_px,
                covered_width_px=part_px,
                fit="stretch" if shortest_px is None else "crop",
                shortest_px=shortest_px,
                resample=Image.Resampling(settings["resample"]).name.lower(),  # type: ignore[arg-type]  # checked there
            )
        except ValueError as error:
            raise ModelError(f"{name}: {error}") from error

    def layout(self, footage: Footage) -> Layout:
        slots = Slots()
        slots.text(self.texts_around_only()[0])
        for sample in range(len(footage)):
            slots.cells(self.picture_id, sample, footage.geometry.cells)
        slots.text([self.picture_id] * self.has_newline)
        return slots.layout()

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        embedded = super().text_embeddings(token_ids)
        if not self.has_newline:
            return embedded
        newline = self.model.model.image_newline.to(embedded)
        return torch.where((token_ids == self.picture_id)[:, None], newline, embedded)


def pixel_values(
    frames: NDArray[np.uint8], settings: Mapping[str, Any], model: PreTrainedModel
) -> Tensor:
    """RGB [frames, height, width, 3] as a vision tower takes it, [frames, 3, height, width].

    Args:
        settings: `image_mean`, `image_std` and `rescale_factor`, as `Checkpoint.pictures` has them.
        model: tells device (a sharded one moves them on by itself) and dtype.
    """
    device = device_of(model.get_input_embeddings())
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(settings["image_mean"], device=device)[:, None, None]
    deviation = torch.tensor(settings["image_std"], device=device)[:, None, None]
    normal: Tensor = (pixels * settings["rescale_factor"] - mean) / deviation
    return normal.to(model.dtype)
