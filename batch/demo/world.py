"""What happens in a demo video: scenes, objects, and when and where they are seen.

Knows no pixels (see `drawing`) and no questions (see `questions`). Places are fractions of the
picture, times are seconds; sample k of a video is what is on screen at second k.
"""

from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
GROUNDS = ("sand", "grass", "water", "stone")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
MOST_DOTS = 5
HELD_OUT_SEED = 1
"""First number of the seeds of the demo's films; training drew from other seeds."""

_LANES = (0.17, 0.5, 0.83)
"""Centres of the three rows and columns in which things stand, as fractions of the picture."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of nine places of the picture, with the small offset at which a thing stands there."""

    row: int
    column: int
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def words(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"

    @property
    def xy(self) -> tuple[float, float]:
        return _LANES[self.column] + self.offset[0], _LANES[self.row] + self.offset[1]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A big shape that stands still or moves once from `start` to `end`.

    It waits until `leaves_s` and has arrived at `arrives_s` (both of the video).
    """

    shape: str
    colour: str
    radius: float
    angle: float
    start: Place
    end: Place
    leaves_s: float
    arrives_s: float

    @property
    def moves(self) -> bool:
        return self.start != self.end

    def xy(self, time_s: float) -> tuple[float, float]:
        if not self.moves:
            return self.start.xy
        done = (time_s - self.leaves_s) / (self.arrives_s - self.leaves_s)
        done = min(max(done, 0.0), 1.0)
        (x0, y0), (x1, y1) = self.start.xy, self.end.xy
        return x0 + done * (x1 - x0), y0 + done * (y1 - y0)


@dataclass(frozen=True, kw_only=True)
class Spark:
    """A small burst of rays seen in one or two samples only."""

    colour: str
    place: Place
    first_sample: int
    samples: int

    def seen(self, time_s: float) -> bool:
        """True in [first - 0.4, last + 0.4] seconds around its samples."""
        return self.first_sample - 0.4 <= time_s <= self.first_sample + self.samples - 1 + 0.4


@dataclass(frozen=True, kw_only=True)
class Look:
    """How hard a scene is to see; as it stands, as in training.

    - contrast: of all things against their ground, 0..1.
    - specks: grey blots on the ground that mean nothing.
    - card: size of the card with the digit, of its usual.
    """

    contrast: float = 1.0
    specks: int = 0
    card: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A stretch of video between two cuts: samples [first_sample, first_sample + samples)."""

    first_sample: int
    samples: int
    ground: str
    ground_seed: int
    things: tuple[Thing, ...]
    digit: int | None = None
    digit_place: Place | None = None
    bead_colour: str | None = None
    bead_place: Place | None = None
    dots: int | None = None
    dots_place: Place | None = None
    spark: Spark | None = None
    look: Look = Look()

    @property
    def end(self) -> int:
        """The sample behind its last one."""
        return self.first_sample + self.samples

    @property
    def caption(self) -> str:
        """The scene in one sentence, things from left to right."""
        names = [
            f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.shape}"
            for thing in self.things
        ]
        return f"{' and '.join(names)} on {self.ground}"


@dataclass(frozen=True, kw_only=True)
class World:
    """A whole video; in a short one shapes, colours of big things and grounds come but once."""

    scenes: tuple[Scene, ...]
    noise: float
    """Camera noise, standard deviation in grey levels of 255."""
    noise_seed: int

    @property
    def samples(self) -> int:
        return sum(scene.samples for scene in self.scenes)

    def scene_at(self, time_s: float) -> Scene:
        """The scene on screen; cuts lie half a second before a scene's first sample."""
        begun = [scene for scene in self.scenes if time_s >= scene.first_sample - 0.5]
        return begun[-1] if begun else self.scenes[0]


def random_world(rng: np.random.Generator, samples: int) -> World:
    """Draw a video of exactly `samples` samples, with one to three scenes."""
    count = int(rng.integers(1, min(3, samples) + 1))
    if samples >= 8:
        count = max(count, 2)
    cuts = np.sort(rng.choice(np.arange(1, samples), count - 1, replace=False))
    edges = [0, *(int(cut) for cut in cuts), samples]
    named = zip(rng.permutation(SHAPES), rng.permutation(COLOURS), strict=False)
    names = [(str(shape), str(colour)) for shape, colour in named]
    grounds = rng.permutation(GROUNDS)
    digits = rng.permutation(10)
    dots_scene, bead_scene, spark_scene = rng.integers(count, size=3)
    one_card = rng.random() < 0.4
    card_scene = int(rng.integers(count))
    scenes = []
    for index in range(count):
        size = int(rng.integers(2, 4)) if count < 3 else 2
        has_card = index == card_scene if one_card else rng.random() < 0.85
        scenes.append(
            random_scene(
                rng,
                span=range(edges[index], edges[index + 1]),
                ground=str(grounds[index]),
                names=[names.pop(0) for _ in range(size)],
                digit=int(digits[index]) if has_card else None,
                has_dots=index == dots_scene,
                has_bead=index == bead_scene,
                has_spark=index == spark_scene,
            )
        )
    return filmed(scenes, rng)


def filmed(scenes: list[Scene], rng: np.random.Generator) -> World:
    """Scenes with some camera noise."""
    noise, noise_seed = float(rng.uniform(0, 6)), int(rng.integers(2**31))
    return World(scenes=tuple(scenes), noise=noise, noise_seed=noise_seed)


def random_scene(
    rng: np.random.Generator,
    *,
    span: range,
    ground: str,
    names: list[tuple[str, str]],
    digit: int | None = None,
    has_dots: bool = False,
    has_bead: bool = False,
    has_spark: bool = False,
) -> Scene:
    """Draw a scene of two or three things, named by shape and colour, of which one may move."""
    samples = len(span)
    columns = np.sort(rng.choice(3, len(names), replace=False))
    mover = int(rng.integers(len(names))) if samples >= 2 and rng.random() < 0.6 else None
    free = {(row, column) for row in range(3) for column in range(3)}
    things = []
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        thing = _thing(rng, name, int(column), span, moves=index == mover)
        things.append(thing)
        rows = range(3) if thing.moves else (thing.start.row,)
        free -= {(row, int(column)) for row in rows}
    places = [Place(row=r, column=c, offset=_jitter(rng, 0.05)) for r, c in sorted(free)]
    rng.shuffle(places)
    spark = None
    if has_spark:
        length = min(int(rng.integers(1, 3)), samples)
        spark = Spark(
            colour=str(rng.choice(COLOURS)),
            place=places[0],
            first_sample=span[int(rng.integers(samples - length + 1))],
            samples=length,
        )
    return Scene(
        first_sample=span.start,
        samples=samples,
        ground=ground,
        ground_seed=int(rng.integers(2**31)),
        things=tuple(things),
        digit=digit,
        digit_place=places[1] if digit is not None else None,
        bead_colour=str(rng.choice(COLOURS)) if has_bead else None,
        bead_place=places[2] if has_bead else None,
        dots=int(rng.integers(1, MOST_DOTS + 1)) if has_dots else None,
        dots_place=places[3] if has_dots else None,
        spark=spark,
    )


def _thing(
    rng: np.random.Generator, name: tuple[str, str], column: int, span: range, *, moves: bool
) -> Thing:
    shape, colour = name
    row = int(rng.integers(3))
    end_row = int(rng.choice([r for r in range(3) if r != row])) if moves else row
    start = Place(row=row, column=column, offset=_jitter(rng, 0.04))
    ends = span[0], span[-1]
    leaves, arrives = np.sort(rng.uniform(*ends, 2)) if moves else ends
    return Thing(
        shape=shape,
        colour=colour,
        radius=float(rng.uniform(0.09, 0.13)),
        angle=float(rng.uniform(-0.35, 0.35)),
        start=start,
        end=replace(start, row=end_row),
        leaves_s=float(leaves),
        arrives_s=float(max(arrives, leaves + 0.25)),
    )


def _jitter(rng: np.random.Generator, reach: float) -> tuple[float, float]:
    x, y = rng.uniform(-reach, reach, 2)
    return float(x), float(y)
