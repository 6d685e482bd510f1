"""Whether a search finds the film that a question is about, and what it takes.

`python -m tests.archive.search_recall --films 500 --folder FOLDER` draws distinct films of 4 to 10
samples, writes their caches with the bundled model (from drawn pictures, every sample stored), lets
it describe them, and asks of each film about two things of one scene, about one thing, about a
shape, and about a small thing, which captions never name. The same command goes on with what is in
the folder. It prints, for 1, 5 and 20 videos listed, the share of questions

- any: for which a film is among them that shows what is asked, which several may do;
- own: for which the very film is that the question was made of; the others may fit as well;
- chance: any, of films listed at random.

`fitting` is the share of the films that `batch ask -q` would ask which show it. Then seconds and
bytes of searches among up to 100,000 videos of three drawn captions each. For times the machine
must be idle.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from batch.archive.searching import SCHEMA, CaptionIndex, scene_row, update
from batch.demo.drawing import add_noise, draw
from batch.demo.world import COLOURS, GROUNDS, SHAPES, World, random_world
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_model
from batch.settings import CacheSettings, ModelSettings
from batch.video import Geometry, TimeRange
from cachefmt import Tier
from tests.manifests import make_manifest

SEED = 31
LISTED = (1, 5, 20)
MOST = 5
"""Videos that answer, as `batch ask` has it."""
SIZES = (1_000, 10_000, 100_000)


Thing = tuple[str, str]
"""Colour and shape."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question made of a film, and all films that show what it asks."""

    kind: str
    text: str
    film: int
    fitting: frozenset[int]


def worlds(count: int) -> list[World]:
    return [
        random_world(np.random.default_rng([SEED, number]), 4 + number % 7)
        for number in range(count)
    ]


def name_of(number: int) -> str:
    return hashlib.sha256(f"film {number}".encode()).hexdigest()


def write_cache(world: World, number: int, family: Family, path: Path) -> None:
    geometry = family.geometry
    if not isinstance(geometry, Geometry):
        raise click.ClickException("the model has no geometry of its own")
    random = np.random.default_rng(world.noise_seed)
    drawn = (draw(world, float(second), geometry.width_px) for second in range(world.samples))
    pictures = np.stack([add_noise(picture, world.noise, random) for picture in drawn])
    tiers = np.full((world.samples, geometry.cells), Tier.INT4, np.uint8)
    manifest = make_manifest(pictures, geometry, tier=tiers)
    video = replace(manifest.header.video, path=Path(f"{number}.mp4"), sha256=name_of(number))
    manifest = replace(manifest, header=replace(manifest.header, video=video))
    settings = CacheSettings(quality="lossless")
    prefill(plan_cache(manifest, family, settings, dtype="float32"), family, path)


def questions(films: Sequence[World]) -> Iterator[Asked]:
    """Of each film, about a scene of it."""
    things = [
        [frozenset((one.colour, one.shape) for one in scene.things) for scene in film.scenes]
        for film in films
    ]
    beads = frozenset(n for n, film in enumerate(films) if any(s.bead_colour for s in film.scenes))

    def asked(kind: str, text: str, film: int, fits: Callable[[frozenset[Thing]], bool]) -> Asked:
        fitting = frozenset(n for n, scenes in enumerate(things) if any(map(fits, scenes)))
        return Asked(kind=kind, text=text, film=film, fitting=fitting)

    for number, film in enumerate(films):
        random = np.random.default_rng([SEED, number, 1])
        scene = film.scenes[random.integers(len(film.scenes))]
        one, other = ((t.colour, t.shape) for t in random.permutation(np.array(scene.things))[:2])
        first, second = " ".join(one), " ".join(other)
        text = f"which scene shows the {first} and the {second} ?"
        yield asked("two things", text, number, {one, other}.issubset)
        yield asked(
            "a thing", f"where is the {first} ?", number, lambda shown, one=one: one in shown
        )
        yield asked(
            "a shape",
            f"what colour is the {one[1]} ?",
            number,
            lambda shown, shape=one[1]: any(shape == other for _, other in shown),
        )
        if number in beads:
            text = "what colour is the bead ?"
            yield Asked(kind="a small thing", text=text, film=number, fitting=beads)


def recall(index: CaptionIndex, asked: Sequence[Asked], films: int) -> dict[str, object]:
    """Of questions of one kind."""
    numbers = {name_of(number): number for number in range(films)}
    random = np.random.default_rng(SEED)
    found = [
        [numbers[s.video] for s in islice(index.search(one.text), LISTED[-1])] for one in asked
    ]
    drawn = [random.permutation(films)[: LISTED[-1]].tolist() for _ in asked]
    best = [numbers[s.video] in one.fitting for one in asked for s in index.best(one.text, MOST)]

    def shares(right: Sequence[frozenset[int]], lists: Sequence[Sequence[int]]) -> list[float]:
        first = [
            next((place for place, film in enumerate(listed) if film in its), LISTED[-1])
            for its, listed in zip(right, lists, strict=True)
        ]
        return [round(float(np.mean(np.array(first) < count)), 3) for count in LISTED]

    fitting = [one.fitting for one in asked]
    return {
        "kind": asked[0].kind,
        "questions": len(asked),
        "any": shares(fitting, found),
        "own": shares([frozenset([one.film]) for one in asked], found),
        "chance": shares(fitting, drawn),
        "fitting": round(float(np.mean(best)), 3) if best else None,
    }


def simulated(videos: int, folder: Path) -> dict[str, object]:
    """A search among so many videos whose captions name two drawn things and a ground."""
    random = np.random.default_rng(SEED)
    captions = random_captions(3 * videos, random)
    time_of = TimeRange(start_s=0.0, stop_s=1.0)
    rows = [
        scene_row(name_of(number // 3), (1, 1), time_of, caption)
        for number, caption in enumerate(captions)
    ]
    path = folder / "simulated.parquet"
    CaptionIndex(pa.Table.from_pylist(rows, SCHEMA)).write(path)
    began_s = time.perf_counter()
    index = CaptionIndex.read(path)
    read_s, took_s = time.perf_counter() - began_s, []
    for _ in range(5):
        began_s = time.perf_counter()
        list(islice(index.search("where is the red circle beside the blue cross ?"), LISTED[-1]))
        took_s.append(time.perf_counter() - began_s)
    size_bytes = path.stat().st_size
    path.unlink()
    return {
        "videos": videos,
        "bytes": size_bytes,
        "read_ms": round(1000 * read_s, 1),
        "search_ms": round(1000 * min(took_s), 1),
    }


def random_captions(count: int, random: np.random.Generator) -> list[str]:
    words = [random.choice(names, count) for names in (COLOURS, SHAPES, COLOURS, SHAPES, GROUNDS)]
    return [f"a {a} {b} and a {c} {d} on {e}" for a, b, c, d, e in zip(*words, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--folder", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    family = open_model(ModelSettings(name="demo", dtype="float32")).load()
    films, caches = worlds(chosen.films), {}
    for number, world in enumerate(tqdm(films, "films", mininterval=10)):
        caches[name_of(number)] = path = chosen.folder / f"film {number}.safetensors"
        if not path.exists():
            write_cache(world, number, family, path)
    began_s = time.perf_counter()
    file = chosen.folder / "captions.parquet"
    missing = len(CaptionIndex.read(file).stale(caches))
    index = update(
        file, caches, lambda: family, watch=watched, failed=click.echo, waiting=click.echo
    )
    if missing:
        took_ms = 1000 * (time.perf_counter() - began_s) / missing
        click.echo(json.dumps({"described": missing, "ms_a_film": round(took_ms, 1)}))
    asked = list(questions(films))
    for kind in dict.fromkeys(one.kind for one in asked):
        of_kind = [one for one in asked if one.kind == kind]
        click.echo(json.dumps(recall(index, of_kind, len(films))))
    for videos in SIZES:
        click.echo(json.dumps(simulated(videos, chosen.folder)))


@contextmanager
def watched(total: int) -> Iterator[Callable[[int], object]]:
    with tqdm(total=total, desc="describe", mininterval=10) as bar:
        yield bar.update


if __name__ == "__main__":
    main()
