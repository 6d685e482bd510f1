"""The suite `archive`: what an archive costs by the number of videos done, and by workers.

Commands run as processes, one after the other, as cron would start them.
"""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from batch.archive.inventory import Inventory, Stat, facts_of
from batch.archive.store import Store
from batch.demo.drawing import write_clip
from batch.demo.run import run_batch
from batch.demo.world import random_world
from batch.evaluation.measuring import Log, circumstances, machine, proc_bytes, ratio

_PER_FOLDER = 1_000
_POLLED_EVERY_S = 0.02


def run_archive(
    *,
    records: Sequence[int] = (1_000, 10_000, 100_000),
    films: int = 4,
    samples: int = 60,
    variants: int = 8,
    repeats: int,
    log: Log,
) -> dict[str, Any]:
    """Measure workers and growth; the result is plain JSON.

    Args:
        records: sizes of the simulated archives.
        samples: length of each film, seconds + 1.
        variants: of each film, that differ in nothing but their digest.
    """
    before = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _draw_films(folder / "films", films, samples, variants)
        workers = _measure_workers(folder, repeats, log)
        growth = {
            str(count): measure_growth(*simulate(folder / str(count), count), log)
            for count in records
        }
    return {
        "suite": "archive",
        **circumstances(before),
        "films": films,
        "samples": samples,
        "variants": variants,
        "repeats": repeats,
        "workers": workers,
        "growth": growth,
    }


def _draw_films(folder: Path, films: int, samples: int, variants: int = 1) -> None:
    """Film demo worlds; drawing is slow, so variants end in different padding."""
    folder.mkdir()
    for number in range(films):
        film = folder / f"{number}-0.mp4"
        write_clip(random_world(np.random.default_rng([7, number]), samples), film)
        for variant in range(1, variants):
            padding = struct.pack(">I4sI", 12, b"free", variant)  # a box that players pass over
            (folder / f"{number}-{variant}.mp4").write_bytes(film.read_bytes() + padding)


def _measure_workers(folder: Path, repeats: int, log: Log) -> dict[str, float]:
    """Analysis by two workers against one, and how long the model waits for nothing.

    `idle_share` is of the time of the model's process: it stood still and a manifest was ready.
    """
    films, known = folder / "films", folder / "known"
    _run_index(films, "--out", known, "--phase", "identify")
    _run_index(films, "--out", known, "--phase", "analyze")
    shutil.rmtree(known / "analyses")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    idle = []
    for _ in range(repeats):
        for jobs, found in seconds.items():
            out = folder / "out"
            shutil.copytree(known, out)
            end = _run_index(films, "--out", out, "--phase", "analyze", "--jobs", jobs)
            found.append(end["elapsed_s"])
            log(f"analysis by {jobs}: {end['elapsed_s']:.1f} s")
            shutil.rmtree(out)
        end = _run_index(films, "--out", folder / "whole", "--jobs", 2)
        idle.append(end["idle_seconds"] / (end["idle_seconds"] + end["seconds"]["prefill"]))
        log(f"model idle {idle[-1]:.3f} of its time although a manifest was ready")
        shutil.rmtree(folder / "whole")
    return {
        "analyze_seconds_1": median(seconds[1]),
        "analyze_seconds_2": median(seconds[2]),
        "speedup": ratio(seconds[1], seconds[2]),
        "idle_share": median(idle),
    }


def measure_growth(archive: Path, out: Path, log: Log) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of commands on an archive of which all is done.

    "plan" looks what is new, "catalogue" is a run that finds nothing to do but the catalogue to
    write, "no_op" one that finds nothing at all.
    """
    index_again = ("index", archive, "--out", out, "--model", "demo")
    commands: dict[str, tuple[object, ...]] = {
        "plan": (*index_again, "--phase", "identify"),
        "catalogue": index_again,
        "no_op": index_again,
        "status": ("status", out),
    }
    found = {}
    for name, words in commands.items():
        seconds, peak_bytes = cost_of(*words)
        found[name] = {"seconds": seconds, "peak_bytes": peak_bytes}
        log(f"{archive.parent.name} records: {name} {seconds:.1f} s, {peak_bytes / 1e6:.0f} MB")
    return found


def _run_index(*words: object) -> dict[str, Any]:
    """Run `batch index` to its end; the last line of its log."""
    _, logged = run_batch("index", *words, "--model", "demo", "--log-format", "json")
    end: dict[str, Any] = json.loads(logged.splitlines()[-1])
    return end


def cost_of(*words: object) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command; RuntimeError if it fails."""
    started, peak_bytes = time.perf_counter(), 0
    command = [sys.executable, "-m", "batch", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # Not what the kernel says of it in the end, which counts its parent's memory too.
        peak_bytes = max(peak_bytes, proc_bytes(status, "VmHWM") or 0)
        time.sleep(_POLLED_EVERY_S)
    if process.returncode != 0:
        raise RuntimeError(f"batch {words[0]} left with {process.returncode}")
    return time.perf_counter() - started, peak_bytes


def simulate(folder: Path, count: int) -> tuple[Path, Path]:
    """An archive and its caches as they would be after `count` videos: all names, no content.

    One film is really indexed; what it left is multiplied.
    """
    archive, out = folder / "archive", folder / "caches"
    archive.mkdir(parents=True)
    _draw_films(folder / "template", 1, 4)
    _run_index(folder / "template", "--out", out)
    store = Store(out)
    (template,) = Inventory.read(store.files).there()
    folders = [*store.all_manifests(), *store.all_caches()]
    records = [products.ledger.read_done(template.video) for products in folders]
    lines = []
    for number in range(count):
        file = archive / str(number // _PER_FOLDER) / f"{number}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        info = replace(template.info, sha256=hashlib.sha256(bytes(file)).hexdigest())
        stat, facts = Stat.of(file.stat()), facts_of(info)
        row = replace(template, path=str(file), stat=stat, facts=facts)
        lines.append(f"{row.to_json()}\n")
        for products, record in zip(folders, records, strict=True):
            done = products.folder / "done" / row.video[:2] / f"{row.video}.json"
            product = products.product(row.video)
            done.parent.mkdir(parents=True, exist_ok=True)
            product.parent.mkdir(parents=True, exist_ok=True)
            product.touch()
            done.write_text(json.dumps({**record, "path": row.path}, sort_keys=True, indent=1))
    (store.files / "base.jsonl").write_text("".join(lines))
    return archive, out
