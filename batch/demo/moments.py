"""Questions about the one moment of a demo world that shows their answer, however long it is."""

from collections import Counter
from dataclasses import dataclass

from batch.demo.questions import Question
from batch.demo.world import Scene, Spark, World


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A question, and the samples [first_sample, first_sample + samples) that answer it."""

    question: Question
    first_sample: int
    samples: int


def moments(world: World) -> list[Moment]:
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


def _moment(when: Scene | Spark, kind: str, text: str, answer: str) -> Moment:
    return Moment(
        question=Question(kind=kind, text=text, answer=answer),
        first_sample=when.first_sample,
        samples=when.samples,
    )
