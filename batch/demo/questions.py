"""Questions about a demo world and their true answers.

Every question is about something that compression can lose. Words are lower case, and only
those that the bundled model's tokenizer knows.
"""

from dataclasses import dataclass

import numpy as np

from batch.demo.world import Scene, World

KINDS = ("detail", "brief", "order", "place", "motion", "count", "binding", "caption")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its one true answer; `kind` is one of KINDS."""

    kind: str
    text: str
    answer: str


def questions_about(world: World, rng: np.random.Generator) -> list[Question]:
    """Every kind of question that has one true answer in this world, in random order."""
    found = [
        *_small_things(world),
        *_order(world, rng),
        *_things(world, rng),
        *_captions(world),
    ]
    rng.shuffle(found)
    return found


def _small_things(world: World) -> list[Question]:
    found = []
    digits = [scene.digit for scene in world.scenes if scene.digit is not None]
    if len(digits) == 1:
        found.append(_question("detail", "what digit is shown ?", str(digits[0])))
    for scene in world.scenes:
        if scene.bead_colour is not None:
            found.append(_question("detail", "what colour is the bead ?", scene.bead_colour))
        if scene.dots is not None:
            found.append(_question("count", "how many dots are there ?", str(scene.dots)))
        if scene.spark is not None:
            colour, place = scene.spark.colour, scene.spark.place.words
            found.append(_question("brief", "what colour was the spark ?", colour))
            found.append(_question("brief", "where was the spark ?", place))
    return found


def _order(world: World, rng: np.random.Generator) -> list[Question]:
    found = []
    digits = [scene.digit for scene in world.scenes if scene.digit is not None]
    if len(digits) > 1:
        found.append(_question("order", "what digit is shown first ?", str(digits[0])))
        found.append(_question("order", "what digit is shown last ?", str(digits[-1])))
        at = int(rng.integers(1, len(digits)))
        text = f"what digit comes after {digits[at - 1]} ?"
        found.append(_question("order", text, str(digits[at])))
    if len(world.scenes) > 1:
        early, late = np.sort(rng.choice(len(world.scenes), 2, replace=False))
        first = str(rng.choice([thing.shape for thing in world.scenes[early].things]))
        second = str(rng.choice([thing.shape for thing in world.scenes[late].things]))
        one, other = (first, second) if rng.random() < 0.5 else (second, first)
        text = f"which came first , the {one} or the {other} ?"
        found.append(_question("order", text, first))
    return found


def _things(world: World, rng: np.random.Generator) -> list[Question]:
    found = []
    things = [thing for scene in world.scenes for thing in scene.things]
    for thing in rng.permutation(np.array(things, dtype=object))[:2]:
        found.append(_question("binding", f"what colour is the {thing.shape} ?", thing.colour))
        found.append(_question("binding", f"what shape is {thing.colour} ?", thing.shape))
    still = [thing for thing in things if not thing.moves]
    if still:
        thing = still[int(rng.integers(len(still)))]
        found.append(_question("place", f"where is the {thing.shape} ?", thing.start.words))
    for thing in things:
        if thing.moves:
            text = f"where does the {thing.shape}"
            found.append(_question("motion", f"{text} start ?", thing.start.words))
            found.append(_question("motion", f"{text} end ?", thing.end.words))
    return found


def _captions(world: World) -> list[Question]:
    if len(world.scenes) == 1:
        return [_caption("the scene", world.scenes[0])]
    return [
        _caption("the first scene", world.scenes[0]),
        _caption("the last scene", world.scenes[-1]),
    ]


def _caption(which: str, scene: Scene) -> Question:
    return _question("caption", f"describe {which} .", scene.caption)


def _question(kind: str, text: str, answer: str) -> Question:
    return Question(kind=kind, text=text, answer=answer)
