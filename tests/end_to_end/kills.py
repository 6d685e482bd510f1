"""An index run killed again and again, resumed each time, against one that nobody disturbed.

`python -m tests.end_to_end.kills --times 100` prints what it found; exit code 1: a difference.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from tests.archive.archives import draw_hostile, draw_video
from tests.archive.contents import contents

ROOT = Path(__file__).parents[2]


def start(archive: Path, out: Path, *words: object) -> "subprocess.Popen[bytes]":
    """An index run in a group of its own, as a scheduler would start it."""
    command = [sys.executable, "-m", "batch", "index", archive, "--out", out, *words]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_often(
    archive: Path, out: Path, *words: object, times: int, within_s: float, seed: int
) -> Counter[str]:
    """Kill a run at a random moment, start it again, and so on; then let it end.

    Half of the kills hit the main process alone, half all of its processes. A run that ends
    before its kill starts again on an emptied folder, so that all kills hit work.

    Returns:
        How often what was hit, by what was there.
    """
    moments = random.Random(seed)
    hit: Counter[str] = Counter()
    while hit.total() < times:
        process = start(archive, out, *words)
        try:
            process.wait(timeout=moments.uniform(0, within_s))
        except subprocess.TimeoutExpired:
            hit[progress(out)] += 1
            if moments.random() < 0.5:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            begin_again(out)
    last = start(archive, out, *words)
    last.wait()
    hit[f"exit code {last.returncode}"] += 1
    return hit


def progress(out: Path) -> str:
    """What a run had reached, in a word."""
    for what, pattern in (
        ("a cache was there", "works/*/done/*/*.json"),
        ("a manifest was there", "analyses/*/done/*/*.json"),
        ("files were looked at", "files/*"),
        ("the run had begun", "runs/*/lock"),
    ):
        if next(out.glob(pattern), None) is not None:
            return what
    return "nothing was there"


def begin_again(out: Path) -> None:
    """Empty a folder of caches."""
    shutil.rmtree(out)
    out.mkdir()


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of files that only one has, or whose content differs, timings aside."""
    return sorted(
        name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name))
    )


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        archive, whole, killed = root / "archive", root / "whole", root / "killed"
        for number in range(chosen.videos):
            draw_video(archive / str(number % 3) / f"{number}.mp4", seed=number)
        shutil.copy(archive / "0" / "0.mp4", archive / "copy of 0.mp4")
        draw_hostile(archive / "hostile")
        whole.mkdir()
        killed.mkdir()
        started = time.monotonic()
        start(archive, whole).wait()
        whole_s = time.monotonic() - started
        hit = kill_often(archive, killed, times=chosen.times, within_s=whole_s, seed=chosen.seed)
        expected = contents(whole)
        found = differences(expected, contents(killed))
    click.echo(
        json.dumps(
            {
                "kills": chosen.times,
                "undisturbed_s": round(whole_s, 1),
                "files": len(expected),
                "hit_when": hit,
                "differences": found,
            }
        )
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
