"""Demo worlds of an hour: still and busy stretches that look alike, and a few short events.

What happens in the stretches is made of two shapes and four colours, over and over. Each event
("needle") shows for two or three samples what no other scene shows: the only digit, the only
bead, the only dots, the only spark, or one of the four other shapes in one of the four other
colours. So `moments_of` finds questions with one true answer in the whole video, all of them about
needles; a test holds it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from batch.demo.questions import Question
from batch.demo.world import COLOURS, GROUNDS, SHAPES, Scene, Spark, World, random_scene

NEEDLES = 8
"""Events of a video: four small things and four shapes."""

_COMMON = 2, 4
"""Shapes and colours of what happens in the stretches."""
_EVENT, _STILL, _BUSY, _BUSY_SCENE = (2, 3), (20, 90), (20, 60), (3, 8)
"""Fewest and most samples of an event, of a still scene, of a busy stretch and of its scenes."""
_AROUND_SPARK = 8
"""Samples of the still scene before and behind a spark: an event need not come with a cut."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A question, and the samples [first_sample, first_sample + samples) that answer it."""

    question: Question
    first_sample: int
    samples: int


def random_needle_world(rng: np.random.Generator, samples: int, *, offset: float = 0.5) -> World:
    """Draw a video of `samples` samples with `NEEDLES` events, evenly spread, in random order.

    Args:
        samples: 40 or more for each needle leaves room for what stands between them.
        offset: where in its share of the video each needle stands, 0..1; videos of different
            offsets have needles at different places.
    """
    cast = _Cast.draw(rng)
    events = _events(rng, cast, samples, offset)
    scenes: list[Scene] = []
    for event in events:
        scenes += _scenes_between(rng, cast, scenes[-1].end if scenes else 0, event.first_sample)
        scenes.append(event)
    scenes += _scenes_between(rng, cast, scenes[-1].end, samples)
    return World(
        scenes=tuple(scenes),
        noise=float(rng.uniform(0, 6)),
        noise_seed=int(rng.integers(2**31)),
    )


def moments_of(world: World) -> list[Moment]:
    """Every question about small things, shapes and colours that has one true answer in a world.

    What is asked for stands in one scene alone: no other one shows a digit, a bead, dots, a spark,
    a thing of that shape, a thing of that colour. So nothing else in the video answers, and the
    kinds are those that the demo model hardly ever gets wrong in short films.

    Returns:
        In order of time.
    """
    scenes = world.scenes
    things = [thing for scene in scenes for thing in scene.things]
    shapes = Counter(thing.shape for thing in things)
    colours = Counter(thing.colour for thing in things)
    once = {
        small: sum(getattr(scene, small) is not None for scene in scenes) == 1
        for small in ("digit", "bead_colour", "dots", "spark")
    }
    found = []
    for scene in scenes:
        if once["digit"] and scene.digit is not None:
            found.append(_moment(scene, "detail", "what digit is shown ?", str(scene.digit)))
        if once["bead_colour"] and scene.bead_colour is not None:
            found.append(_moment(scene, "detail", "what colour is the bead ?", scene.bead_colour))
        if once["dots"] and scene.dots is not None:
            found.append(_moment(scene, "count", "how many dots are there ?", str(scene.dots)))
        if once["spark"] and scene.spark is not None:
            colour, place = scene.spark.colour, scene.spark.place.words
            found.append(_moment(scene.spark, "brief", "what colour was the spark ?", colour))
            found.append(_moment(scene.spark, "brief", "where was the spark ?", place))
        for thing in scene.things:
            if shapes[thing.shape] == 1:
                text = f"what colour is the {thing.shape} ?"
                found.append(_moment(scene, "binding", text, thing.colour))
            if colours[thing.colour] == 1:
                text = f"what shape is {thing.colour} ?"
                found.append(_moment(scene, "binding", text, thing.shape))
    return found


@dataclass(frozen=True, kw_only=True)
class _Cast:
    """Who plays in a video."""

    shapes: list[str]
    colours: list[str]
    rare: list[tuple[str, str]]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Cast":
        shapes, colours = (list(map(str, rng.permutation(all))) for all in (SHAPES, COLOURS))
        few, some = _COMMON
        return cls(
            shapes=shapes[:few],
            colours=colours[:some],
            rare=list(zip(shapes[few:], colours[some:], strict=True)),
        )

    def names(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        """The two common shapes in common colours."""
        colours = rng.choice(self.colours, len(self.shapes), replace=False)
        return [(shape, str(colour)) for shape, colour in zip(self.shapes, colours, strict=True)]


def _events(rng: np.random.Generator, cast: _Cast, samples: int, offset: float) -> list[Scene]:
    """The needles in order of time."""
    kinds = [*("digit", "bead", "dots", "spark"), *cast.rare]
    found = []
    for place, number in enumerate(rng.permutation(len(kinds))):
        kind, names = kinds[number], cast.names(rng)
        first = int((place + offset) * samples / len(kinds))
        length = int(rng.integers(_EVENT[0], _EVENT[1] + 1))
        if kind == "spark":
            first, length = first - _AROUND_SPARK, length + 2 * _AROUND_SPARK
        if isinstance(kind, tuple):
            names[0] = kind
        first = min(max(first, 0), samples - length)
        scene = random_scene(
            rng,
            first=first,
            samples=length,
            ground=str(rng.choice(GROUNDS)),
            names=names,
            digit=int(rng.integers(10)) if kind == "digit" else None,
            has_dots=kind == "dots",
            has_bead=kind == "bead",
            has_spark=kind == "spark",
        )
        found.append(_still(scene) if kind == "spark" else scene)
    return found


def _scenes_between(
    rng: np.random.Generator, cast: _Cast, first: int, stop: int
) -> Iterator[Scene]:
    """Still and busy stretches in turn, which fill samples [first, stop)."""
    is_busy = bool(rng.integers(2))
    while first < stop:
        shortest, longest = _BUSY if is_busy else _STILL
        end = min(stop, first + int(rng.integers(shortest, longest + 1)))
        while first < end:
            length = int(rng.integers(_BUSY_SCENE[0], _BUSY_SCENE[1] + 1)) if is_busy else end
            scene = random_scene(
                rng,
                first=first,
                samples=min(length, end - first),
                ground=str(rng.choice(GROUNDS)),
                names=cast.names(rng),
            )
            yield scene if is_busy else _still(scene)
            first = scene.end
        is_busy = not is_busy


def _still(scene: Scene) -> Scene:
    return replace(scene, things=tuple(replace(one, end=one.start) for one in scene.things))


def _moment(when: Scene | Spark, kind: str, text: str, answer: str) -> Moment:
    return Moment(
        question=Question(kind=kind, text=text, answer=answer),
        first_sample=when.first_sample,
        samples=when.samples,
    )
