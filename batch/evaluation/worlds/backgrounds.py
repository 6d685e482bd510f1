"""Films of the demo world drawn over real video: their things on the frames of real clips.

Each scene stands on a stretch of a clip that its own seed chooses, so that a cut of the film is a
cut between clips; in some the camera stands still: one frame for the whole scene. Things take the
light of the ground that they stand on and the noise of the clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from batch.demo.drawing import FILM_PX, FRAMES_PER_S, Rgb, draw_over
from batch.demo.world import Scene, World
from batch.errors import BatchError
from batch.video import Geometry, read_samples

_MARGIN = 8 / 7
"""How much wider than a film its clips are kept, so that each scene is cut out elsewhere."""
_LONGEST_S = 20
_STILL_SHARE = 0.3
_LIGHT = 0.65, 1.1
"""Least and most of a thing's own brightness, on a dark and on a bright ground."""
SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class Clip:
    """The middle square of a clip's first seconds."""

    path: Path

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """[frames, side, side, 3], at the rate of films."""
        side = round(FILM_PX * _MARGIN)
        square = Geometry(
            height_px=side, width_px=side, rows=1, columns=1, fit="crop", shortest_px=side
        )
        samples = read_samples(self.path, geometry=square, rate_hz=FRAMES_PER_S)
        frames = [sample.rgb for _, sample in zip(range(_LONGEST_S * FRAMES_PER_S), samples)]  # noqa: B905  # the clip may be longer
        return np.stack(frames)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of its noise, grey levels.

        Source: Immerkaer, "Fast noise variance estimation", 1996: the mean response to a
        difference of two Laplacians.
        """
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        grey = self.frames[0].mean(axis=2, dtype=np.float32)
        response = cv2.filter2D(grey, cv2.CV_32F, kernel)
        return float(np.median(np.abs(response)) / 0.6745 / 6)


class Backgrounds:
    """Clips on which worlds are drawn; `draw` is as that of `batch.demo.drawing`."""

    def __init__(self, clips: Sequence[Path]) -> None:
        self.clips = [Clip(path) for path in clips]

    def draw(self, world: World, time_s: float, size_px: int) -> Rgb:
        """Draw what the camera sees at `time_s`; [size_px, size_px, 3]."""
        scene = world.scene_at(time_s)
        rng = np.random.default_rng(scene.ground_seed)
        clip = self.clips[int(rng.integers(len(self.clips)))]
        ground = _ground(clip, scene, time_s, rng)
        if size_px != FILM_PX:
            size = (size_px, size_px)
            ground = cv2.resize(ground, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        picture = draw_over(ground, scene, time_s)
        things = (picture != ground).any(axis=2)
        light = cv2.blur(ground.mean(axis=2, dtype=np.float32), (size_px // 4, size_px // 4))
        gain = np.interp(light, (0, 160), _LIGHT).astype(np.float32)[..., None]
        grain = np.random.default_rng([scene.ground_seed, round(time_s * FRAMES_PER_S)])
        noise = grain.standard_normal(picture.shape, dtype=np.float32) * clip.noise
        lit = np.clip(picture * gain + noise, 0, 255).astype(np.uint8)
        return np.where(things[..., None], lit, picture)


def find_clips(folder: Path) -> list[Path]:
    """The clips in a folder, by name.

    Raises:
        BatchError: there is none.
    """
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not clips:
        raise BatchError(f"{folder}: no clip here; known are {', '.join(SUFFIXES)}")
    return clips


def _ground(clip: Clip, scene: Scene, time_s: float, rng: np.random.Generator) -> Rgb:
    """The frame behind a scene at a moment; a clip that is too short runs back and forth."""
    count = len(clip.frames)
    first, is_still = int(rng.integers(count)), rng.random() < _STILL_SHARE
    top, left = rng.integers(clip.frames.shape[1] - FILM_PX + 1, size=2)
    mirrored = rng.random() < 0.5
    passed = 0 if is_still else round((time_s - scene.first_sample + 0.5) * FRAMES_PER_S)
    at = (first + passed) % max(1, 2 * count - 2)
    frame: Rgb = clip.frames[min(at, 2 * count - 2 - at) if at >= count else at]
    cut = frame[top : top + FILM_PX, left : left + FILM_PX]
    return np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)
