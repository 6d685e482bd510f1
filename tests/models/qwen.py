"""What the tests of the Qwen-VL families share: clips, and how their processors lay out pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch.models import Family, open_family
from batch.video import Footage, Geometry
from tests.models import parity

PAINTED = 7
CLIPS = {
    "even": parity.draw_clip(6, 24, 32),
    "odd": parity.draw_clip(5, 24, 32),
    "large": parity.draw_clip(2, 50, 70),
}
MEAN, DEVIATION = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames [frames, height, width, 3], and what transformers made of them."""

    frames: NDArray[np.uint8]
    geometry: Geometry
    expected: parity.Reference

    @property
    def merged(self) -> NDArray[np.uint8]:
        """The frames, the last one twice where a sample lacks one."""
        missing = -len(self.frames) % 2
        return np.concatenate([self.frames, self.frames[len(self.frames) - missing :]])

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """Pictures of the samples as phase 1 makes them."""
        return parity.pictures_of(self.geometry, self.merged)

    def footage(self, interval_s: float = 1.0) -> Footage:
        """As analysis finds it: a lacking frame has the time of the one in its place."""
        samples = len(self.merged) // 2
        steady = Footage.steady(self.geometry, samples, interval_s)
        last_s = (len(self.frames) - 1) * interval_s
        return replace(steady, last_pts_s=np.minimum(steady.last_pts_s, last_s))

    @property
    def seen(self) -> NDArray[np.float64]:
        """What the processor hands to the vision tower, as pictures of grey levels."""
        patches = self._patches().transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
        pixels = patches.reshape(-1, *self.geometry.picture_shape)
        levels: NDArray[np.float64] = (pixels * DEVIATION + MEAN) * 255
        return levels.round()

    def changed(self) -> NDArray[np.float64]:
        """Share of pixels of each cell, in the order of tokens, that the second frame changes."""
        one, other = self._patches().transpose(6, 0, 1, 2, 3, 4, 7, 8, 5)
        share: NDArray[np.float64] = (one != other).all(axis=-1).mean(axis=(3, 4, 5, 6)).flatten()
        return share

    def _patches(self) -> NDArray[np.float32]:
        """[samples, rows, columns, 2, 2, channels, frames, 4 px, 4 px]: patches of each cell."""
        grid = (-1, self.geometry.rows, self.geometry.columns)
        return self.expected.pixels.reshape(*grid, 2, 2, 3, 2, 4, 4)


def run(folder: Path, clips: dict[str, NDArray[np.uint8]], fps: float = 1.0) -> dict[str, Clip]:
    """Let transformers' processor and model see the clips."""
    found = parity.references(folder, list(clips.values()), "video", fps)
    family = open_family(str(folder))
    return {
        name: Clip(frames=frames, geometry=geometry_of(family, frames), expected=expected)
        for (name, frames), expected in zip(clips.items(), found, strict=True)
    }


def geometry_of(family: Family, frames: NDArray[np.uint8]) -> Geometry:
    """The geometry of a clip."""
    return family.geometry.for_video(frames.shape[1], frames.shape[2], len(frames))


def painted(family: Family) -> NDArray[np.uint8]:
    """A frame, and the same with every pixel of one cell changed."""
    frame = CLIPS["even"][0]
    geometry = geometry_of(family, frame[None])
    return np.stack([frame, parity.paint_cell(frame, geometry, PAINTED)])
