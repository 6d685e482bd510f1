"""What an answer takes from a cache: loading it, one question, many of them in one batch."""

from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batch.evaluation.bench.decoding import endless_answers
from batch.evaluation.bench.workload import Measured, Workload
from batch.evaluation.measuring import Work, ratio, side_by_side, timed_again, within
from batch.kv import Prefix
from cachefmt import CacheFile, CacheWriter, Header
from cachefmt.layout import TensorSpec, tensor_specs

QUESTIONS = 64
"""Of the batch."""
PAGE_BYTES = 4096
FEW_TOKENS, MANY_TOKENS = 4, 20
"""Of the answers between which lie the decode steps that a question is measured in."""


def measure_questions(workload: Workload, repeats: int) -> Measured:
    """The first answer against the same with its rows in memory; a question in decode steps.

    What is done once a video, as the neutral question that evidence is compared with, is a part
    of the first answer alone. A decode step is what one more token of an answer takes.
    """
    film = workload.films[0]
    question, most = film.questions[:1], workload.size.answer_tokens
    held = workload.answerer(film)

    def answer(tokens: int) -> None:
        list(held.ask_all(question, max_new_tokens=tokens))

    answer(most)  # now its rows are in memory, on a GPU too
    ways: dict[str, Work] = {
        "file": partial(workload.answer_from_file, film),
        "memory": partial(answer, most),
    }
    taken = side_by_side(ways, repeats)
    few: list[float] = []
    steps: list[float] = []
    with endless_answers(workload.family):
        for _ in within(repeats):
            seconds = [timed_again(partial(answer, n)) for n in (FEW_TOKENS, MANY_TOKENS)]
            few.append(seconds[0])
            steps.append((seconds[1] - seconds[0]) / (MANY_TOKENS - FEW_TOKENS))
    ratios = {
        "first_answer_overhead": ratio(taken["file"], taken["memory"]),
        "question_steps": ratio(few, steps),
    }
    figures = {
        "file_answer_seconds": taken["file"],
        "memory_answer_seconds": taken["memory"],
        "question_seconds": few,
        "step_seconds": steps,
    }
    return ratios, figures


def measure_batch(workload: Workload, repeats: int) -> Measured:
    """Many questions in one batch against the same one by one, on the same cache."""
    film = workload.films[0]
    questions = list(islice(cycle(film.questions), QUESTIONS))
    answerer, most = workload.answerer(film), workload.size.answer_tokens

    def answer(batch_size: int) -> None:
        list(answerer.ask_all(questions, max_new_tokens=most, batch_size=batch_size))

    taken = side_by_side(
        {"batch_seconds": lambda: answer(QUESTIONS), "one_by_one_seconds": lambda: answer(1)},
        repeats,
    )
    speedup = ratio(taken["one_by_one_seconds"], taken["batch_seconds"])
    return {"batch64_speedup": speedup}, {"questions": QUESTIONS, **taken}


def measure_loading(workload: Workload, repeats: int) -> Measured:
    """Open, check, map and touch every page of the rows, in turn with one read of all bytes.

    All from the page cache: the file was just written. Touching stands for the first question,
    which reads the rows where they lie. No loader of a first file has a buffer whose pages are
    there already, as `load_rate_reused_buffer` reads into.
    """
    film, tokens = workload.films[0], workload.size.load_tokens
    path = film.path.with_name("long.safetensors")
    with CacheFile.open(film.cache) as cache:
        _write_long(path, cache.header, tokens)
    buffer = np.ones(path.stat().st_size, np.uint8)  # ones: its pages are there before the clock

    def read(buffer: NDArray[np.uint8]) -> None:
        with path.open("rb") as file:
            file.readinto(buffer.data)

    taken = side_by_side(
        {
            "load_seconds": lambda: _touch(_load(path, workload.device)),
            "open_seconds": lambda: _load(path, workload.device),
            "raw_read_seconds": lambda: read(np.empty(len(buffer), np.uint8)),
            "reused_buffer_seconds": lambda: read(buffer),
        },
        max(repeats, 5),
    )
    path.unlink()
    ratios = {
        "load_rate": ratio(taken["raw_read_seconds"], taken["load_seconds"]),
        "load_rate_reused_buffer": ratio(taken["reused_buffer_seconds"], taken["load_seconds"]),
    }
    return ratios, {"file_bytes": len(buffer), "tokens": tokens, **taken}


def _load(path: Path, device: str) -> Prefix:
    with CacheFile.open(path) as cache:
        cache.verify_tables()
        return Prefix.load(cache, device)


def _touch(prefix: Prefix) -> None:
    for layer in range(prefix.shape.layers):
        for part in prefix.layer(layer):
            for rows in (*part.key, *part.value):
                if len(rows):
                    rows.view(-1).view(torch.uint8)[::PAGE_BYTES].max()


def _write_long(path: Path, like: Header, tokens: int) -> None:
    """Write a cache of so many text tokens, in the mix of tiers of another, of random rows."""
    stored = like.shape.token_count
    counts = {name: count * tokens // stored for name, count in like.shape.tokens.items()}
    counts["INT4"] += tokens - sum(counts.values())
    header = replace(
        like,
        shape=replace(like.shape, tokens=counts, samples=0, stored_samples=0),
        layout=replace(like.layout, slots=tokens, next_position=(tokens,)),
    )
    rng = np.random.default_rng(0)
    with CacheWriter(path, header) as writer:
        for name, spec in tensor_specs(header.shape).items():
            writer.write(name, 0, _content(name, spec, rng))
        writer.finish()


def _content(name: str, spec: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    dtype = spec.numpy_dtype
    if name.startswith("layers."):
        return rng.integers(0, 64, spec.size_bytes, np.uint8).view(dtype).reshape(spec.shape)
    if name in ("token.position", "sample.source"):
        return np.arange(spec.shape[0], dtype=dtype).reshape(spec.shape)
    values = {"token.multiplicity": 1, "token.sample": -1, "token.cell": -1}
    return np.full(spec.shape, values.get(name, 0), dtype)
