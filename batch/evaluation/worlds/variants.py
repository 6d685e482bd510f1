"""Demo worlds that are hard to see or to remember, each in its own way.

A variant is a change to a world that `random_world` drew; the model was trained on `plain` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from batch.demo.world import Look, Scene, Thing, World, random_world


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Films of [shortest, longest] samples and what is done to each."""

    shortest: int
    longest: int
    change: Callable[[World], World | None]
    """None if the variant cannot be made of this world."""

    def random_world(self, rng: np.random.Generator) -> World:
        """Draw worlds until one can be changed."""
        samples = int(rng.integers(self.shortest, self.longest + 1))
        while True:
            world = self.change(random_world(rng, samples))
            if world is not None:
                return world


def _easy(world: World) -> World:
    """Nothing moves and the camera has no noise."""
    return replace(world, scenes=tuple(map(stand_still, world.scenes)), noise=0.0)


def _look(**how: float) -> Callable[[World], World]:
    look = Look(**how)  # type: ignore[arg-type]  # counts and fractions

    def change(world: World) -> World:
        return replace(world, scenes=tuple(replace(s, look=look) for s in world.scenes))

    return change


def _fast(world: World) -> World | None:
    """What moves crosses the picture within a quarter of a second."""
    if not any(thing.moves for scene in world.scenes for thing in scene.things):
        return None
    scenes = []
    for scene in world.scenes:
        things = tuple(_travel(one, one.leaves_s, one.leaves_s + 0.25) for one in scene.things)
        scenes.append(replace(scene, things=things))
    return replace(world, scenes=tuple(scenes))


def _drift(world: World) -> World | None:
    """One scene, in which something moves all the time, by a few pixels a sample."""
    for scene in world.scenes:
        if any(thing.moves for thing in scene.things):
            last = float(world.samples - 1)
            things = tuple(_travel(thing, 0.0, last) for thing in scene.things)
            whole = _fill(replace(scene, things=things), world.samples)
            return replace(world, scenes=(whole,))
    return None


def _event(world: World) -> World:
    """One scene, in which nothing happens but a spark."""
    scene = next(scene for scene in world.scenes if scene.spark is not None)
    return replace(world, scenes=(stand_still(_fill(scene, world.samples)),))


def stand_still(scene: Scene) -> Scene:
    """The scene without motion: each thing stays where it starts."""
    return replace(scene, things=tuple(replace(one, end=one.start) for one in scene.things))


def _travel(thing: Thing, leaves_s: float, arrives_s: float) -> Thing:
    return replace(thing, leaves_s=leaves_s, arrives_s=arrives_s) if thing.moves else thing


def _fill(scene: Scene, samples: int) -> Scene:
    """Stretch a scene over the whole video; its spark comes at the same share of the way."""
    spark = scene.spark
    if spark is not None:
        way = (spark.first_sample - scene.first_sample) / scene.samples
        first = min(round(way * samples), samples - spark.samples)
        spark = replace(spark, first_sample=first)
    return replace(scene, first_sample=0, samples=samples, spark=spark)


VARIANTS = {
    "plain": Variant(shortest=4, longest=16, change=lambda world: world),
    "long": Variant(shortest=17, longest=32, change=lambda world: world),
    "easy": Variant(shortest=4, longest=8, change=_easy),
    "cluttered": Variant(shortest=4, longest=16, change=_look(specks=120)),
    "low-contrast": Variant(shortest=4, longest=16, change=_look(contrast=0.5)),
    "small-text": Variant(shortest=4, longest=16, change=_look(card=0.8)),
    "fast-motion": Variant(shortest=4, longest=16, change=_fast),
    "slow-drift": Variant(shortest=16, longest=24, change=_drift),
    "still-event": Variant(shortest=24, longest=32, change=_event),
}
"""All that `demo` stands for."""
KNOWN = VARIANTS | {"short": Variant(shortest=4, longest=8, change=lambda world: world)}
"""With those that are asked for by name only: short ones are what the judge "seeing" learned."""
