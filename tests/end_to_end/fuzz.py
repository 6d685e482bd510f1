"""Small videos with bytes changed, boxes moved or ends cut off, each looked into and analysed.

`python -m tests.end_to_end.fuzz --times 2000` prints how many ended in which way; exit code 1: a
process crashed, hung, outgrew its memory, or an error or a manifest was none that may come.
"""

import argparse
import faulthandler
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.errors import VideoError
from batch.making.manifests import ONE_THREAD, keep_opencv_to_one_thread
from batch.video import Geometry, probe
from batch.video.clock import LONGEST_STEP_S, MOST_HELD_S
from jobs.workers import Died, Finished, Pool, Progress, Raised, Stuck, Worker, collect
from tests import clips
from tests.video import clocks

GEOMETRY = Geometry(height_px=28, width_px=28, rows=1, columns=1)
MEMORY_BYTES = 3 << 30
LIMIT_S = 120.0
Data = bytearray
Mutation = Callable[[Data, random.Random], None]


@dataclass(frozen=True)
class Task:
    path: Path


def change_bytes(data: Data, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 30, 300))):
        data[chance.randrange(len(data))] = chance.randrange(256)


def change_the_head(data: Data, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 10))):
        data[chance.randrange(min(len(data), 800))] = chance.randrange(256)


def change_a_number(data: Data, chance: random.Random) -> None:
    """Four or eight bytes in a row, as sizes, counts and times of boxes are."""
    size = chance.choice((4, 8))
    for _ in range(chance.choice((1, 2, 8))):
        at = chance.randrange(max(1, len(data) - size))
        edge = chance.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size) - 1, 2**31, 10**6))
        data[at : at + size] = (edge % 2 ** (8 * size)).to_bytes(size, "big")


def change_a_box(data: Data, chance: random.Random) -> None:
    """Bytes after a name of four letters, or of its size before it."""
    names = [at for at in range(4, len(data) - 12) if data[at : at + 4].isalpha()]
    for _ in range(3):
        at = chance.choice(names or [4])
        place = at + chance.choice((-4, 4, 8))
        data[place : place + 4] = chance.randbytes(4)


def cut_off(data: Data, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def cut_out(data: Data, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 5000)]


def repeat(data: Data, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randrange(1, 20_000)]
    at = chance.choice((len(data), chance.randrange(len(data))))
    data[at:at] = piece


def reorder(data: Data, chance: random.Random) -> None:
    size = max(1, len(data) // chance.choice((4, 16, 64)))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    one, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    data[:] = b"".join(pieces)


MUTATIONS: tuple[Mutation, ...] = (
    *(change_bytes, change_the_head, change_a_number, change_a_box),
    *(cut_off, cut_out, repeat, reorder),
)


def seeds(folder: Path) -> list[Path]:
    """A small video in each container, some with B-frames or in fragments."""
    made = [
        clocks.write(folder / name, range(30), b_frames=b_frames, fragments=fragments)
        for name, b_frames, fragments in (
            *(("a.mp4", 0, False), ("b.mp4", 2, False), ("fragments.mp4", 0, True)),
            *(("a.mov", 0, False), ("a.mkv", 2, False), ("a.webm", 0, False), ("a.avi", 0, False)),
            *(("a.ts", 2, False), ("a.mpg", 2, False), ("a.flv", 0, False), ("a.nut", 0, False)),
        )
    ]
    gif = clips.write_clip(
        folder / "a.gif", clips.moving(9, height_px=32, width_px=48, step_px=2), codec="gif",
        pix_fmt="rgb8", options={},
    )  # fmt: skip
    return [*made, clocks.joined(folder / "joined.ts", 2, 15), gif]


def make_handler(progress: Progress) -> Callable[[Task], str]:
    """In a worker of little memory: look into a file and analyse it; how it ended, in words."""
    keep_opencv_to_one_thread()
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    settings = AnalysisSettings.of_profile()

    def handle(task: Task) -> str:
        try:
            info = probe(task.path, progress=progress)
        except VideoError as error:
            return f"refused: {error.reason}"
        try:
            manifest = analyze_video(info, GEOMETRY, settings, progress=progress)
        except VideoError as error:
            return f"refused while it was read: {error.reason}"
        header, times_s = manifest.header, manifest.pts_s
        longest_s = MOST_HELD_S + LONGEST_STEP_S * (manifest.frame[-1] + 100)
        if times_s[0] or (np.diff(times_s) < 0).any() or header.decoded_s > longest_s:
            return "wrong: times"
        return "read, with a warning" if header.warning else "read"

    return handle


def run(tasks: list[Task]) -> tuple[Counter[str], dict[str, str]]:
    """Numbers by outcome, and the files whose outcome must not be."""
    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    with Pool([Worker(make_handler, ONE_THREAD, LIMIT_S)]) as pool:
        for task in tasks:
            began_s = time.monotonic()
            pool.submit(task)
            results = []
            while not results and time.monotonic() - began_s < LIMIT_S:
                results = collect([pool], timeout_s=1.0)
            result = results[0][1] if results else Stuck(task=task, silent_s=LIMIT_S)
            if isinstance(result, Finished):
                outcome = str(result.value)
            elif isinstance(result, Raised):
                outcome = f"raised: {type(result.error).__name__}: {result.error}"
            elif isinstance(result, Died):
                outcome = f"died: {result.signal}"
            else:
                outcome = "stuck"
                pool.workers[0].end(at_once=True)
            outcomes[outcome] += 1
            if not outcome.startswith(("read", "refused")):
                wrong[task.path.name] = outcome
    return outcomes, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Folder for files that ended wrong.")
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = seeds(folder)
        tasks = []
        for number in range(chosen.times):
            source = whole[number % len(whole)]
            data = Data(source.read_bytes())
            for mutation in chance.sample(MUTATIONS, chance.choice((1, 1, 1, 2))):
                if data:
                    mutation(data, chance)
            task = Task(folder / f"{number:05}-{source.name}")
            task.path.write_bytes(data)
            tasks.append(task)
        started_s = time.monotonic()
        outcomes, wrong = run(tasks)
        if chosen.keep is not None:
            chosen.keep.mkdir(exist_ok=True)
            for name in wrong:
                (folder / name).rename(chosen.keep / name)
    click.echo(
        json.dumps(
            {
                "files": len(tasks),
                "seconds": round(time.monotonic() - started_s, 1),
                "outcomes": dict(outcomes.most_common()),
                "wrong": wrong,
            }
        )
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
