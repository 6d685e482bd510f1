"""Pictures of a demo world at any moment, at any square size, and its film as a video file."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from batch.demo.world import Place, Scene, Thing, World

Rgb = NDArray[np.uint8]
Point = tuple[float, float]
Colour = tuple[int, int, int]
Draw = Callable[[World, float, int], Rgb]
"""Draws a world at a moment, in seconds, at a square size in pixels."""

INK = {
    "red": (215, 40, 40),
    "green": (45, 175, 65),
    "blue": (50, 80, 225),
    "yellow": (240, 220, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (70, 215, 225),
    "pink": (250, 140, 185),
}
_GROUND = {
    "sand": (176, 156, 124),
    "grass": (66, 92, 52),
    "water": (48, 70, 104),
    "stone": (118, 118, 122),
}
_TEXTURE_SCALE = {"sand": (1, 1), "grass": (3, 1), "water": (1, 4), "stone": (2, 2)}
"""How far a ground's texture is drawn out along (y, x)."""

_GLYPHS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00010 00100 01000 11111",
    "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
_DOTS = ((-0.075, -0.075), (0.075, 0.075), (0.075, -0.075), (-0.075, 0.075), (0.0, 0.0))
_SHIFT = 4

FILM_PX = 224
FRAMES_PER_S = 8

# With mbtree, x264 (av 18.1) gives other bytes for the same frames from run to run.
_ENCODER = {"crf": "18", "x264-params": "mbtree=0"}


def draw(world: World, time_s: float, size_px: int) -> Rgb:
    """Draw what the camera sees at `time_s`, without its noise; [size_px, size_px, 3]."""
    scene = world.scene_at(time_s)
    return draw_over(draw_ground(scene, size_px), scene, time_s)


def draw_over(ground: Rgb, scene: Scene, time_s: float) -> Rgb:
    """Draw a scene's things on a ground [size_px, size_px, 3], which stays as it is."""
    picture = ground.copy()
    _draw_things(picture, scene, time_s)
    share = scene.look.contrast
    if share < 1:
        cv2.addWeighted(picture, share, ground, 1 - share, 0, dst=picture)
    return picture


def write_clip(
    world: World,
    path: Path,
    *,
    frames_per_s: int = FRAMES_PER_S,
    preset: str = "medium",
    drawn: Draw = draw,
) -> None:
    """Film a world with its camera noise as H.264, by a preset of x264.

    Sample k is the frame at second k, as `drawn` draws it.
    """
    rng = np.random.default_rng(world.noise_seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=frames_per_s, options=_ENCODER | {"preset": preset}
        )
        stream.width = stream.height = FILM_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, frames_per_s)
        stream.codec_context.thread_count = 1
        for number in range((world.samples - 1) * frames_per_s + 1):
            picture = drawn(world, number / frames_per_s, FILM_PX)
            frame = av.VideoFrame.from_ndarray(add_noise(picture, world.noise, rng), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def add_noise(picture: Rgb, sigma: float, rng: np.random.Generator) -> Rgb:
    """Add camera noise of `sigma` grey levels to a picture."""
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * sigma
    noisy: Rgb = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return noisy


@lru_cache(maxsize=4)
def draw_ground(scene: Scene, size_px: int) -> Rgb:
    """Draw the texture on which a scene's things stand; read only."""
    rng = np.random.default_rng(scene.ground_seed)
    tall, wide = _TEXTURE_SCALE[scene.ground]
    texture = np.zeros((size_px, size_px), np.float32)
    for cells, strength in ((6, 14.0), (24, 10.0)):
        grid = rng.standard_normal((cells // tall + 2, cells // wide + 2)).astype(np.float32)
        texture += strength * cv2.resize(grid, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    ground = np.asarray(_GROUND[scene.ground], np.float32) + texture[..., None]
    clipped: Rgb = np.clip(ground, 0, 255).astype(np.uint8)
    for _ in range(scene.look.specks):
        centre = tuple(rng.uniform(0, size_px, 2))
        grey = int(rng.integers(60, 200))
        _disc(clipped, centre, rng.uniform(0.006, 0.018) * size_px, (grey, grey, grey))
    clipped.flags.writeable = False
    return clipped


def _draw_things(picture: Rgb, scene: Scene, time_s: float) -> None:
    size = picture.shape[0]
    if scene.dots is not None and scene.dots_place is not None:
        for dx, dy in _DOTS[: scene.dots]:
            _box(picture, _at(scene.dots_place, size, dx, dy), 0.022 * size, (255, 255, 255))
    if scene.bead_colour is not None and scene.bead_place is not None:
        centre = _at(scene.bead_place, size)
        _disc(picture, centre, 0.042 * size, (20, 20, 20))
        _disc(picture, centre, 0.03 * size, INK[scene.bead_colour])
    if scene.digit is not None and scene.digit_place is not None:
        _card(picture, scene.digit, _at(scene.digit_place, size), scene.look.card)
    for thing in scene.things:
        _thing(picture, thing, time_s)
    if scene.spark is not None and scene.spark.seen(time_s):
        _spark(picture, _at(scene.spark.place, size), 0.09 * size, INK[scene.spark.colour])


def _at(place: Place, size: int, dx: float = 0.0, dy: float = 0.0) -> Point:
    x, y = place.xy
    return (x + dx) * size, (y + dy) * size


def _thing(picture: Rgb, thing: Thing, time_s: float) -> None:
    size = picture.shape[0]
    x, y = thing.xy(time_s)
    centre, radius, colour = (x * size, y * size), thing.radius * size, INK[thing.colour]
    if thing.shape == "circle":
        _disc(picture, centre, radius, colour)
    elif thing.shape == "ring":
        thickness = max(1, round(radius * 0.45))
        _disc(picture, centre, radius - thickness / 2, colour, thickness)
    else:
        _polygon(picture, centre, radius, thing.angle, _OUTLINES[thing.shape], colour)


_STAR = [((1.15, 0.45)[k % 2], math.pi * k / 5 - math.pi / 2) for k in range(10)]
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.1), (1.0, 0.8), (-1.0, 0.8)],
    "star": [(r * math.cos(a), r * math.sin(a)) for r, a in _STAR],
    "cross": [
        *[(-0.33, -1.0), (0.33, -1.0), (0.33, -0.33), (1.0, -0.33), (1.0, 0.33), (0.33, 0.33)],
        *[(0.33, 1.0), (-0.33, 1.0), (-0.33, 0.33), (-1.0, 0.33), (-1.0, -0.33), (-0.33, -0.33)],
    ],
}


def _polygon(
    picture: Rgb, centre: Point, radius: float, angle: float, outline: list[Point], colour: Colour
) -> None:
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    points = np.asarray(outline) @ turn * radius + np.asarray(centre)
    fixed = np.round(points * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(picture, [fixed], colour, cv2.LINE_AA, _SHIFT)


def _disc(
    picture: Rgb, centre: Point, radius: float, colour: Colour, thickness: int = cv2.FILLED
) -> None:
    fixed = round(radius * 2**_SHIFT)
    cv2.circle(picture, _fixed(centre), fixed, colour, thickness, cv2.LINE_AA, _SHIFT)


def _box(picture: Rgb, centre: Point, half: float, colour: Colour) -> None:
    outline = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    _polygon(picture, centre, half, 0.0, outline, colour)


def _spark(picture: Rgb, centre: Point, radius: float, colour: Colour) -> None:
    for ray in range(8):
        angle = ray * math.pi / 4 + 0.2
        tip = centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)
        width = max(1, round(picture.shape[0] / 64))
        cv2.line(picture, _fixed(centre), _fixed(tip), colour, width, cv2.LINE_AA, _SHIFT)


def _card(picture: Rgb, digit: int, centre: Point, scale: float) -> None:
    dot = scale * picture.shape[0] / 56
    outline = [(-0.72, -1.0), (0.72, -1.0), (0.72, 1.0), (-0.72, 1.0)]
    _polygon(picture, centre, 4.6 * dot, 0.0, outline, (250, 250, 250))
    for row, line in enumerate(_GLYPHS[digit].split()):
        for column, bit in enumerate(line):
            if bit == "1":
                at = centre[0] + (column - 2) * dot, centre[1] + (row - 3) * dot
                _box(picture, at, dot / 2, (15, 15, 15))


def _fixed(point: Point) -> tuple[int, int]:
    return round(point[0] * 2**_SHIFT), round(point[1] * 2**_SHIFT)
