"""`batch demo`: films, manifests, caches, answers, as a newcomer would make them.

Every phase is a process of its own, started with the command that it logs; the films are
deleted before the first question is asked.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batch.demo.drawing import write_clip
from batch.demo.questions import Question, questions_about
from batch.demo.world import HELD_OUT_SEED, random_world
from batch.errors import BatchError

Log = Callable[[str], object]
Answer = Callable[[Path, Sequence[str]], list[str]]
"""Answers questions about a film without a cache."""


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question with its truth, the answer from the cache and that of the uncompressed model."""

    question: Question
    answer: str
    uncompressed: str


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Answers, sizes and times of a demo run."""

    answered: list[AnsweredQuestion]
    caches: list[dict[str, Any]]
    """What `batch inspect --json` prints of each cache."""
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """What `batch demo --json` prints."""
        size, full = self._sum("size_bytes"), self._sum("fp16_kv_bytes")
        right = [one.answer == one.question.answer for one in self.answered]
        right_full = [one.uncompressed == one.question.answer for one in self.answered]
        tiers = self.caches[0]["tokens"]
        return {
            "questions": len(self.answered),
            "exact_match": sum(right) / len(right),
            "exact_match_uncompressed": sum(right_full) / len(right),
            "cache_bytes": size,
            "fp16_kv_bytes": full,
            "compression": full / size,
            "tokens": {tier: sum(cache["tokens"][tier] for cache in self.caches) for tier in tiers},
            "tier_bytes": {
                tier: sum(cache["bytes"][tier] for cache in self.caches) for tier in tiers
            },
            "slots": self._sum("slots"),
            "samples": self._sum("samples"),
            "stored_samples": self._sum("stored_samples"),
            "seconds": self.seconds,
        }

    def _sum(self, key: str) -> int:
        return sum(cache[key] for cache in self.caches)


def run_demo(
    folder: Path,
    *,
    films: int,
    samples: int,
    profile: str,
    answer_uncompressed: Answer,
    log: Log,
) -> DemoResult:
    """Film, analyse, prefill, delete the films, answer.

    Args:
        folder: where manifests and caches go; the films go to a temporary folder.
        films: how many.
        samples: length of each, seconds + 1.
        profile: thresholds of the tiers.
        answer_uncompressed: what the answers are compared with.
        log: receives each command before it runs.

    Raises:
        BatchError: a phase failed; the message is its own.
    """
    phases = _Phases(folder, log)
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / f"film{number}.mp4" for number in range(films)]
        with phases.timed("draw"):
            questions = [draw_film(path, number, samples) for number, path in enumerate(paths)]
        texts = [[question.text for question in asked] for asked in questions]
        phases.run("analyze", *map(str, paths), "--out", ".", "--profile", profile)
        log("(the same questions to the model without compression, by transformers' own forward)")
        with phases.timed("uncompressed"):
            full = [
                answer_uncompressed(path, asked) for path, asked in zip(paths, texts, strict=True)
            ]
        phases.run("prefill", *(f"{path.stem}.parquet" for path in paths), "--out", ".")
    log("(the films are deleted)")
    answers, caches = [], []
    for path, asked in zip(paths, texts, strict=True):
        cache = f"{path.stem}.safetensors"
        lines = phases.run("answer", "--cache", cache, "--json", stdin="\n".join(asked))
        answers.append([json.loads(line)["answer"] for line in lines.splitlines()])
        caches.append(json.loads(_run(folder, "inspect", cache, "--json")))
    answered = [
        AnsweredQuestion(question=question, answer=answer, uncompressed=uncompressed)
        for film in zip(questions, answers, full, strict=True)
        for question, answer, uncompressed in zip(*film, strict=True)
    ]
    return DemoResult(answered=answered, caches=caches, seconds=phases.seconds)


class _Phases:
    """Runs and times commands in a folder."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._folder, self._log = folder, log
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def run(self, name: str, *arguments: str, stdin: str = "") -> str:
        self._log(f"batch {name} {' '.join(arguments)}")
        with self.timed(name):
            return _run(self._folder, name, *arguments, stdin=stdin)


def draw_film(path: Path, number: int, samples: int) -> list[Question]:
    """Draw and write the demo's film of a number; returns what can be asked about it."""
    rng = np.random.default_rng([HELD_OUT_SEED, number])
    world = random_world(rng, samples)
    write_clip(world, path)
    return questions_about(world, rng)


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
