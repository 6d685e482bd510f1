"""What the Qwen-VL families share: frames in the video's own shape, merged by twos, and M-RoPE.

A sample is `temporal_patch_size` frames (two), which the vision tower merges; so `--fps` counts
frames, and samples come half as often. The tower lets no sample see another. A checkpoint without
video_preprocessor_config.json takes the pixel limits of its images, as in transformers: up to 12.8
million pixels of a frame. Knows no family.
"""

from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout, Slots
from batch.models.pictures import pixel_values
from batch.video import DynamicGeometry, Footage, Geometry


class MropeSlots:
    """Collects the slots of a prefix with their positions in time, row and column.

    Source: `get_rope_index` of the Qwen-VL models, transformers 5.23. There, what follows a
    video starts behind its rows and columns, so before the times of late samples; until 5.2 it
    started behind the last time.
    """

    def __init__(self) -> None:
        self._slots = Slots()
        self._positions: list[NDArray[np.int64]] = []
        self._next = 0

    def text(self, token_ids: ArrayLike, sample: int = -1) -> None:
        length = len(np.asarray(token_ids))
        self._slots.text(token_ids, sample)
        self._positions.append(np.arange(length)[:, None].repeat(3, axis=1) + self._next)
        self._next += length

    def video(
        self, token_id: int, first_sample: int, times: NDArray[np.int64], geometry: Geometry
    ) -> None:
        """Add the cells of consecutive samples, which stand in one place at these times."""
        for sample in range(first_sample, first_sample + len(times)):
            self._slots.cells(token_id, sample, geometry.cells)
        axes = (times, np.arange(geometry.rows), np.arange(geometry.columns))
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        self._positions.append(places.reshape(-1, 3) + self._next)
        self._next += max(geometry.rows, geometry.columns)

    def layout(self) -> Layout:
        return self._slots.layout(np.concatenate(self._positions).astype(np.int32), self._next)


class QwenVL(Family):
    """A Qwen-VL model: a video enters in one place, cells row by row, samples in turn."""

    defaults: ClassVar[dict[str, Any]] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "image_mean": OPENAI_CLIP_MEAN,
        "image_std": OPENAI_CLIP_STD,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "cap_pixels_per_frame": None,
    }
    """Source: Qwen2VLVideoProcessor of transformers 5.23."""
    bounds: ClassVar[Literal["frame", "video"]] = "frame"
    """What the processor's limits of pixels are for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        vision = self.config.vision_config
        expected = {
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }
        for setting, value in expected.items():
            if self._pictures[setting] != value:
                raise ModelError(
                    f"{checkpoint.name}: the video processor's {setting} is "
                    f"{self._pictures[setting]}, supported is {value}"
                )
        if self._pictures["cap_pixels_per_frame"]:
            raise ModelError(
                f"{checkpoint.name}: the video processor's cap_pixels_per_frame is true, "
                "supported is false (what transformers 5.23 does when nothing is said)"
            )

    @cached_property
    def geometry(self) -> DynamicGeometry:
        vision, size = self.config.vision_config, self._pictures["size"]
        limits = [size.get("shortest_edge"), size.get("longest_edge")]
        if self.bounds == "frame":  # Qwen2VLVideoProcessor alone knows, and prefers, older names
            older = [self._pictures.get("min_pixels"), self._pictures.get("max_pixels")]
            limits = [old or new for old, new in zip(older, limits, strict=True)]
        if None in limits:
            raise ModelError(
                f"{self.checkpoint.name}: the video processor's size is {size}, "
                "expected shortest_edge and longest_edge"
            )
        try:
            return DynamicGeometry(
                cell_px=vision.patch_size * vision.spatial_merge_size,
                frames=vision.temporal_patch_size,
                least_px=limits[0],
                most_px=limits[1],
                bounds=self.bounds,
                resample=Image.Resampling(self._pictures["resample"]).name.lower(),  # type: ignore[arg-type]  # checked there
            )
        except ValueError as error:
            raise ModelError(f"{self.checkpoint.name}: {error}") from error

    def layout(self, footage: Footage) -> Layout:
        slots = MropeSlots()
        slots.text(self.texts_around_only()[0])
        slots.video(self.picture_id, 0, self.times_of(footage), footage.geometry)
        return slots.layout()

    def times_of(self, footage: Footage) -> NDArray[np.int64]:
        """Positions of samples in time, int64 [samples]."""
        return np.arange(len(footage))

    def features(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        patch = self.config.vision_config.patch_size
        grid = [len(pictures), geometry.height_px // patch, geometry.width_px // patch]
        found = self.model.model.get_video_features(
            self._patches(pictures, geometry), torch.tensor([grid], device=self.device)
        )
        return self.cells_of(found).view(len(pictures), geometry.cells, -1)

    def cells_of(self, found: Any) -> Tensor:
        """Embeddings [cells, width] in what the vision tower says of one video."""
        embedded: Tensor = found.pooler_output[0]
        return embedded

    def _patches(self, pictures: NDArray[np.uint8], geometry: Geometry) -> Tensor:
        """Patches [samples * patches, 3 * frames * patch * patch], the four of a cell together."""
        vision = self.config.vision_config
        patch, merge = vision.patch_size, vision.spatial_merge_size
        frames = pictures.reshape(-1, geometry.height_px, geometry.width_px, 3)
        pixels = pixel_values(frames, self._pictures, self.model)
        split = pixels.view(
            len(pictures), geometry.frames, 3, geometry.rows, merge, patch, -1, merge, patch
        )
        together = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return together.reshape(-1, 3 * geometry.frames * patch * patch)
