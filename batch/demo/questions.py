"""Questions about a demo world and their true answers.

Every question is about something that compression can lose. Words are lower case, and only
those that the bundled model's tokenizer knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from batch.demo.world import Scene, Thing, World

KINDS = ("detail", "brief", "order", "place", "motion", "count", "binding", "caption")


@dataclass(frozen=True)
class Question:
    """A question with its one true answer; `kind` is one of KINDS."""

    kind: str
    text: str
    answer: str


def questions_about(world: World, rng: np.random.Generator) -> list[Question]:
    """Every kind of question that has one true answer in this world, in random order."""
    small = [asked for scene in world.scenes for asked in small_things(scene)]
    digits = [question for what, question in small if what == "digit"]
    found = [
        *(digits if len(digits) == 1 else ()),
        *(question for what, question in small if what != "digit"),
        *_order(world, rng),
        *_things(world, rng),
        *_captions(world),
    ]
    rng.shuffle(found)
    return found


def small_things(scene: Scene) -> Iterator[tuple[str, Question]]:
    """What can be asked about the small things of a scene, each with the thing's name."""
    if scene.digit is not None:
        yield "digit", Question("detail", "what digit is shown ?", str(scene.digit))
    if scene.bead_colour is not None:
        yield "bead", Question("detail", "what colour is the bead ?", scene.bead_colour)
    if scene.dots is not None:
        yield "dots", Question("count", "how many dots are there ?", str(scene.dots))
    if scene.spark is not None:
        colour, place = scene.spark.colour, scene.spark.place.words
        yield "spark", Question("brief", "what colour was the spark ?", colour)
        yield "spark", Question("brief", "where was the spark ?", place)


def colour_of(thing: Thing) -> Question:
    """Ask the colour of a shape."""
    return Question("binding", f"what colour is the {thing.shape} ?", thing.colour)


def shape_of(thing: Thing) -> Question:
    """Ask the shape of a colour."""
    return Question("binding", f"what shape is {thing.colour} ?", thing.shape)


def _order(world: World, rng: np.random.Generator) -> Iterator[Question]:
    digits = [scene.digit for scene in world.scenes if scene.digit is not None]
    if len(digits) > 1:
        yield Question("order", "what digit is shown first ?", str(digits[0]))
        yield Question("order", "what digit is shown last ?", str(digits[-1]))
        at = int(rng.integers(1, len(digits)))
        yield Question("order", f"what digit comes after {digits[at - 1]} ?", str(digits[at]))
    if len(world.scenes) > 1:
        early, late = np.sort(rng.choice(len(world.scenes), 2, replace=False))
        first = str(rng.choice([thing.shape for thing in world.scenes[early].things]))
        second = str(rng.choice([thing.shape for thing in world.scenes[late].things]))
        one, other = (first, second) if rng.random() < 0.5 else (second, first)
        yield Question("order", f"which came first , the {one} or the {other} ?", first)


def _things(world: World, rng: np.random.Generator) -> Iterator[Question]:
    things = [thing for scene in world.scenes for thing in scene.things]
    for thing in rng.permutation(np.array(things, dtype=object))[:2]:
        yield from (colour_of(thing), shape_of(thing))
    still = [thing for thing in things if not thing.moves]
    if still:
        thing = still[int(rng.integers(len(still)))]
        yield Question("place", f"where is the {thing.shape} ?", thing.start.words)
    for thing in things:
        if thing.moves:
            text = f"where does the {thing.shape}"
            yield Question("motion", f"{text} start ?", thing.start.words)
            yield Question("motion", f"{text} end ?", thing.end.words)


def _captions(world: World) -> Iterator[Question]:
    first, *others = world.scenes
    which = "the first scene" if others else "the scene"
    yield Question("caption", f"describe {which} .", first.caption)
    if others:
        yield Question("caption", "describe the last scene .", others[-1].caption)
