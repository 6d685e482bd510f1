"""`batch demo`: films, manifests, caches, answers, as a newcomer would make them.

Every phase is a process of its own, started with the command that it logs; the films are
deleted before the first question is asked.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from batch.demo.drawing import write_clip
from batch.demo.questions import Question, questions_about
from batch.demo.world import HELD_OUT_SEED, random_world
from batch.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question with the answer from the cache and that of the uncompressed model.

    `evidence` are the times that the first rests on, s, half-open.
    """

    question: Question
    answer: str
    uncompressed: str
    evidence: Sequence[tuple[float, float]] = ()

    @classmethod
    def of(cls, question: Question, found: Mapping[str, Any], uncompressed: str) -> Self:
        """`found` is what `batch answer --json` prints."""
        evidence = [(part["start_s"], part["stop_s"]) for part in found["evidence"]]
        answer = found["answer"]
        return cls(question=question, answer=answer, uncompressed=uncompressed, evidence=evidence)

    @property
    def remark(self) -> str:
        """What is to be said of the answer; nothing if it is the truth, word for word."""
        if self.answer == self.question.answer:
            return ""
        is_same = self.question.kind == "caption" and _things(self.answer) == _things(
            self.question.answer
        )
        return "the same things, in another order" if is_same else "wrong"


def _things(caption: str) -> tuple[list[str], str]:
    """What a caption names, in order of the alphabet, and on what ground."""
    things, _, ground = caption.rpartition(" on ")
    return sorted(things.split(" and ")), ground


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of one question about a film: from the video, and twice from its cache.

    The first time the cache is loaded, the second it is there.
    """

    video: float
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Answers, sizes and times of a demo run; `caches` is what `batch inspect --json` prints."""

    answered: list[list[AnsweredQuestion]]
    """Of each film."""
    caches: list[dict[str, Any]]
    video_bytes: list[int]
    speed: Speed
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """What `batch demo --json` prints."""

        def total(key: str) -> int:
            return sum(cache[key] for cache in self.caches)

        def by_name(key: str) -> dict[str, int]:
            return {name: sum(cache[key][name] for cache in self.caches) for name in first[key]}

        first = self.caches[0]
        answered = [one for film in self.answered for one in film]
        right = [one.answer == one.question.answer for one in answered]
        right_full = [one.uncompressed == one.question.answer for one in answered]
        return {
            "questions": len(answered),
            "other_order": sum("order" in one.remark for one in answered),
            "exact_match": sum(right) / len(right),
            "exact_match_uncompressed": sum(right_full) / len(right),
            "video_bytes": sum(self.video_bytes),
            "cache_bytes": total("size_bytes"),
            "fp16_kv_bytes": total("fp16_kv_bytes"),
            "compression": total("fp16_kv_bytes") / total("size_bytes"),
            "tokens": by_name("tokens"),
            "bytes": by_name("bytes"),
            "slots": total("slots"),
            "samples": total("samples"),
            "stored_samples": total("stored_samples"),
            "seconds_of_a_question": asdict(self.speed),
            "seconds": self.seconds,
        }


def run_demo(
    folder: Path,
    *,
    films: int,
    samples: int,
    profile: str,
    answer_uncompressed: Callable[[Path, Sequence[str]], list[str]],
    answer_twice: Callable[[Path, str], tuple[float, float]],
    log: Callable[[str], object],
) -> DemoResult:
    """Film, analyse, prefill, delete the films, answer.

    Args:
        folder: where manifests and caches go; the films go to a temporary folder.
        samples: length of each film, seconds + 1.
        answer_uncompressed: answers questions about a film without a cache.
        answer_twice: asks a cache the same twice; seconds of the first, loading included, and
            of the second.
        log: receives each command before it runs.

    Raises:
        BatchError: a phase failed; the message is its own.
    """
    phases = _Phases(folder=folder, log=log)
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / f"film{number}.mp4" for number in range(films)]
        with phases.timed("draw"):
            questions = [draw_film(path, number, samples) for number, path in enumerate(paths)]
        texts = [[question.text for question in asked] for asked in questions]
        videos = [str(path) for path in paths]
        phases.run("analyze", *videos, "--out", ".", "--model", "demo", "--profile", profile)
        log("(the same questions to the model without compression, by transformers' own forward)")
        with phases.timed("uncompressed"):
            full = list(map(answer_uncompressed, paths, texts))
        started = time.perf_counter()
        answer_uncompressed(paths[0], texts[0][:1])
        from_video = time.perf_counter() - started
        video_bytes = [path.stat().st_size for path in paths]
        manifests = [f"{path.stem}.parquet" for path in paths]
        phases.run("prefill", *manifests, "--out", ".", "--model", "demo")
    log("(the films are deleted)")
    answered, caches = [], []
    for path, asked, uncompressed in zip(paths, questions, full, strict=True):
        cache, stdin = f"{path.stem}.safetensors", "\n".join(one.text for one in asked)
        said = phases.run("answer", cache, "--json", stdin=stdin).splitlines()
        both = zip(asked, map(json.loads, said), uncompressed, strict=True)
        answered.append([AnsweredQuestion.of(*one) for one in both])
        caches.append(json.loads(run_batch("inspect", cache, "--json", folder=folder)[0]))
    first, second = answer_twice(folder / f"{paths[0].stem}.safetensors", texts[0][0])
    return DemoResult(
        answered=answered,
        caches=caches,
        video_bytes=video_bytes,
        speed=Speed(video=from_video, first=first, second=second),
        seconds=phases.seconds,
    )


@dataclass(kw_only=True)
class _Phases:
    """Logs commands, runs them in a folder, and adds up what each phase takes."""

    folder: Path
    log: Callable[[str], object]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, phase: str, *arguments: str, stdin: str = "") -> str:
        self.log(f"batch {phase} {' '.join(arguments)}")
        with self.timed(phase):
            return run_batch(phase, *arguments, folder=self.folder, stdin=stdin)[0]

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


def draw_film(path: Path, number: int, samples: int) -> list[Question]:
    """Draw and write the demo's film of a number; returns what can be asked about it."""
    rng = np.random.default_rng([HELD_OUT_SEED, number])
    world = random_world(rng, samples)
    write_clip(world, path)
    return questions_about(world, rng)


def run_batch(*words: object, folder: Path | None = None, stdin: str = "") -> tuple[str, str]:
    """Run a command in a new process to its end; what it printed and logged.

    Raises:
        BatchError: it failed.
    """
    command = [sys.executable, "-m", "batch", *map(str, words)]
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise BatchError(f"batch {words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout, done.stderr
