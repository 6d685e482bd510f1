"""Demo worlds of an hour: still and busy stretches that look alike, and a few short events.

What happens in the stretches is made of two shapes and four colours, over and over. Each event
("needle") shows for two or three samples what no other scene shows: the only digit, the only
bead, the only dots, the only spark, or one of the four other shapes in one of the four other
colours. So `moments_of` finds questions with one true answer in the whole video, all of them about
needles; a test holds it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from batch.demo.questions import Question, colour_of, shape_of, small_things
from batch.demo.world import COLOURS, GROUNDS, SHAPES, Scene, Spark, World, filmed, random_scene
from batch.evaluation.worlds.variants import stand_still

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
        offset: where in its share of the video each needle stands, 0..1.
    """
    cast = _Cast(*(list(map(str, rng.permutation(words))) for words in (SHAPES, COLOURS)))
    scenes: list[Scene] = []
    end = 0
    for event in _events(rng, cast, samples, offset):
        scenes += [*_scenes_between(rng, cast, end, event.first_sample), event]
        end = event.end
    scenes += _scenes_between(rng, cast, end, samples)
    return filmed(scenes, rng)


def moments_of(world: World) -> list[Moment]:
    """Every question about small things, shapes and colours with one true answer, in order of time.

    What is asked for stands in one scene alone: no other one shows a digit, a bead, dots, a spark,
    a thing of that shape, a thing of that colour. The kinds are those that the demo model hardly
    ever gets wrong in short films.
    """
    asked = [pair for scene in world.scenes for pair in _askable(scene)]
    times = Counter(question.text for _, question in asked)
    return [
        Moment(question=question, first_sample=when.first_sample, samples=when.samples)
        for when, question in asked
        if times[question.text] == 1
    ]


def _askable(scene: Scene) -> Iterator[tuple[Scene | Spark, Question]]:
    for what, question in small_things(scene):
        yield scene.spark if what == "spark" and scene.spark else scene, question
    for thing in scene.things:
        yield scene, colour_of(thing)
        yield scene, shape_of(thing)


@dataclass(frozen=True)
class _Cast:
    """Shapes and colours in random order; the first of each are common in a video."""

    shapes: list[str]
    colours: list[str]

    def names(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        shapes, colours = self.shapes[: _COMMON[0]], self.colours[: _COMMON[1]]
        chosen = rng.choice(colours, len(shapes), replace=False)
        return list(zip(shapes, map(str, chosen), strict=True))


def _events(rng: np.random.Generator, cast: _Cast, samples: int, offset: float) -> list[Scene]:
    rare = zip(cast.shapes[_COMMON[0] :], cast.colours[_COMMON[1] :], strict=True)
    kinds = ["digit", "bead", "dots", "spark", *rare]
    found = []
    for place, number in enumerate(rng.permutation(len(kinds))):
        kind, names = kinds[number], cast.names(rng)
        first = int((place + offset) * samples / len(kinds))
        length = _draw_from(rng, _EVENT)
        if kind == "spark":
            first, length = first - _AROUND_SPARK, length + 2 * _AROUND_SPARK
        if isinstance(kind, tuple):
            names[0] = kind
        first = min(max(first, 0), samples - length)
        scene = random_scene(
            rng,
            span=range(first, first + length),
            ground=str(rng.choice(GROUNDS)),
            names=names,
            digit=int(rng.integers(10)) if kind == "digit" else None,
            has_dots=kind == "dots",
            has_bead=kind == "bead",
            has_spark=kind == "spark",
        )
        found.append(stand_still(scene) if kind == "spark" else scene)
    return found


def _scenes_between(
    rng: np.random.Generator, cast: _Cast, first: int, stop: int
) -> Iterator[Scene]:
    """Still and busy stretches in turn, which fill samples [first, stop)."""
    is_busy = bool(rng.integers(2))
    while first < stop:
        end = min(stop, first + _draw_from(rng, _BUSY if is_busy else _STILL))
        while first < end:
            stop_scene = first + _draw_from(rng, _BUSY_SCENE) if is_busy else end
            scene = random_scene(
                rng,
                span=range(first, min(stop_scene, end)),
                ground=str(rng.choice(GROUNDS)),
                names=cast.names(rng),
            )
            yield scene if is_busy else stand_still(scene)
            first = scene.end
        is_busy = not is_busy


def _draw_from(rng: np.random.Generator, fewest_and_most: tuple[int, int]) -> int:
    return int(rng.integers(*fewest_and_most, endpoint=True))
