"""The whole way once, as a newcomer would go it: films, manifests, caches, answers.

Every phase is a process of its own, started with the command that it prints; the films are
deleted before the first question is asked.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from batch.demo.clip import write_clip
from batch.demo.questions import Question, ask
from batch.demo.world import imagine
from batch.errors import BatchError

HELD_OUT = 1
"""First number of the seeds of demo films; training draws from other seeds."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, its truth, and what both models said."""

    video: str
    question: Question
    answer: str
    uncompressed: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a demo run did."""

    asked: list[Asked]
    caches: list[dict[str, Any]]
    """What `batch inspect --json` says of each cache."""
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        size = sum(cache["size_bytes"] for cache in self.caches)
        full = sum(cache["fp16_kv_bytes"] for cache in self.caches)
        tiers = self.caches[0]["tokens"]
        return {
            "questions": len(self.asked),
            "exact_match": _share([a.answer == a.question.answer for a in self.asked]),
            "exact_match_uncompressed": _share(
                [a.uncompressed == a.question.answer for a in self.asked]
            ),
            "cache_bytes": size,
            "fp16_kv_bytes": full,
            "compression": full / size,
            "tokens": {tier: sum(cache["tokens"][tier] for cache in self.caches) for tier in tiers},
            "tier_bytes": {
                tier: sum(cache["bytes"][tier] for cache in self.caches) for tier in tiers
            },
            "slots": sum(cache["slots"] for cache in self.caches),
            "samples": sum(cache["samples"] for cache in self.caches),
            "stored_samples": sum(cache["stored_samples"] for cache in self.caches),
            "seconds": self.seconds,
        }


def show(
    folder: Path, *, videos: int, samples: int, profile: str, say: Callable[[str], None]
) -> Shown:
    """Film, analyse, prefill, delete the films, answer.

    Args:
        folder: where manifests and caches go; the films go to a temporary folder.
        videos: how many films.
        samples: length of each, seconds + 1.
        profile: thresholds of the tiers.
        say: told each command before it runs.

    Raises:
        BatchError: a phase failed; the message is its own.
    """
    with tempfile.TemporaryDirectory() as studio:
        return _show(folder, Path(studio), videos, samples, profile, say)


def _show(
    folder: Path, studio: Path, videos: int, samples: int, profile: str, say: Callable[[str], None]
) -> Shown:
    names = [f"film{number}" for number in range(videos)]
    films = {name: studio / f"{name}.mp4" for name in names}
    started = time.perf_counter()
    questions = {
        name: _film(films[name], [HELD_OUT, number], samples) for number, name in enumerate(names)
    }
    seconds = {"draw": time.perf_counter() - started}

    def phase(name: str, *arguments: str, stdin: str = "") -> str:
        say(f"batch {name} {' '.join(arguments)}")
        before = time.perf_counter()
        output = _run(folder, name, *arguments, stdin=stdin)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - before
        return output

    phase("analyze", *map(str, films.values()), "--out", ".", "--profile", profile)
    started = time.perf_counter()
    say("(the same questions to the model without compression, by transformers' own forward)")
    uncompressed = {name: _uncompressed(films[name], questions[name]) for name in names}
    seconds["uncompressed"] = time.perf_counter() - started
    phase("prefill", *(f"{name}.parquet" for name in names), "--out", ".")
    for film in films.values():
        film.unlink()
    say("(the films are deleted)")
    asked, caches = [], []
    for name in names:
        texts = "\n".join(question.text for question in questions[name])
        lines = phase("answer", "--cache", f"{name}.safetensors", "--json", stdin=texts)
        answers = [json.loads(line)["answer"] for line in lines.splitlines()]
        asked += [
            Asked(video=name, question=question, answer=answer, uncompressed=full)
            for question, answer, full in zip(
                questions[name], answers, uncompressed[name], strict=True
            )
        ]
        caches.append(json.loads(_run(folder, "inspect", f"{name}.safetensors", "--json")))
    return Shown(asked=asked, caches=caches, seconds=seconds)


def _film(path: Path, seed: list[int], samples: int) -> list[Question]:
    rng = np.random.default_rng(seed)
    world = imagine(rng, samples)
    write_clip(world, path)
    return ask(world, rng)


def _uncompressed(film: Path, questions: list[Question]) -> list[str]:
    import torch

    from batch.evaluation.uncompressed import Uncompressed
    from batch.models import open_family
    from batch.video import Footage, Sampling, geometry_for, probe, read_samples

    family = open_family("demo")
    family.load(device="cpu", dtype=torch.float32)
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    pictures = np.stack([sample.rgb for sample in read_samples(film, geometry=geometry)])
    footage = Footage.steady(geometry, len(pictures))
    texts = [question.text for question in questions]
    return Uncompressed(family, pictures, footage).ask_all(texts)


def _run(folder: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "batch", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BatchError(f"batch {arguments[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def _share(right: list[bool]) -> float:
    return sum(right) / len(right)
