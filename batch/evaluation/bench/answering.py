"""What an answer takes from a cache: loading it, one question, many of them in one batch."""

from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.bench.decoding import endless_answers
from batch.evaluation.bench.workload import Measured, Workload
from batch.evaluation.measuring import Work, ratio, side_by_side, timed_again, within
from batch.kv import Prefix
from cachefmt import STORED_TIERS, CacheFile, CacheWriter, Codec, Header, Tables, Tier
from cachefmt.layout import token_bytes

QUESTIONS = 64
"""Of the batch."""
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
    """Open, check and take the rows of a long plain file, in turn with one read of all bytes.

    And those of a film's file, in turn with a read of as many bytes as its rows would have at INT4.
    All from the page cache: the file was just written. No loader of a first file has a buffer
    whose pages are there already, as `load_rate_reused_buffer` reads into.
    """
    film, tokens = workload.films[0], workload.size.load_tokens
    path = film.path.with_name("long.safetensors")
    with CacheFile.open(film.cache) as cache:
        shape = cache.header.shape
        _write_long(path, cache.header, tokens)
    buffer = np.ones(path.stat().st_size, np.uint8)  # ones: its pages are there before the clock
    int4_bytes = shape.token_count * token_bytes(shape, Tier.INT4)

    def read(buffer: NDArray[np.uint8]) -> None:
        with path.open("rb") as file:
            file.readinto(buffer.data)

    taken = side_by_side(
        {
            "load_seconds": lambda: _load(path, workload),
            "raw_read_seconds": lambda: read(np.empty(len(buffer), np.uint8)),
            "reused_buffer_seconds": lambda: read(buffer),
            "decode_seconds": lambda: _load(film.cache, workload),
            "int4_read_seconds": lambda: read(np.empty(int4_bytes, np.uint8)),
        },
        max(repeats, 5),
    )
    path.unlink()
    ratios = {
        "load_rate": ratio(taken["raw_read_seconds"], taken["load_seconds"]),
        "load_rate_reused_buffer": ratio(taken["reused_buffer_seconds"], taken["load_seconds"]),
        "decode_rate": ratio(taken["int4_read_seconds"], taken["decode_seconds"]),
    }
    rows_bytes = 2 * shape.token_count * shape.layers * shape.layer_numbers
    figures = {"file_bytes": len(buffer), "tokens": tokens, "decoded_fp16_bytes": rows_bytes}
    return ratios, {**figures, **taken}


def _load(path: Path, workload: Workload) -> Prefix:
    with CacheFile.open(path) as cache:
        return Prefix.load(cache, workload.device, workload.family.rotation)


def _write_long(path: Path, like: Header, tokens: int) -> None:
    """Write a plain cache of so many cells, in another's mix of tiers, of random rows."""
    shape, cells = like.shape, like.shape.rows * like.shape.columns
    samples = -(-tokens // cells)
    rng = np.random.default_rng(0)
    tier = rng.choice(
        np.repeat(STORED_TIERS, [shape.tokens[tier.name] for tier in STORED_TIERS]), samples * cells
    ).astype(np.uint8)
    tables = Tables(
        time_s=np.arange(samples, dtype=np.float64),
        source=np.arange(samples, dtype=np.int32),
        tier=tier,
        sample=np.repeat(np.arange(samples, dtype=np.int32), cells),
        cell=np.tile(np.arange(cells, dtype=np.int32), samples),
        multiplicity=np.ones(len(tier), np.int32),
        position=np.repeat(
            np.arange(len(tier), dtype=np.int32)[:, None], shape.position_axes, axis=1
        ),
    )
    counts = {tier.name: count for tier, count in tables.counts(range(len(tier))).items()}
    header = replace(
        like,
        shape=replace(shape, tokens=counts, samples=samples, stored_samples=samples),
        layout=replace(like.layout, slots=len(tier)),
        codec=Codec(name="plain", quality="lossless", group_layers=shape.layers, block_samples=4),
        fidelity=None,
    )
    with CacheWriter(path, header, tables) as writer:
        for number, rows in enumerate(tables.blocks(header.codec.block_samples)):
            parts = tables.counts(rows).items()
            size_bytes = sum(count * token_bytes(header.shape, tier) for tier, count in parts)
            writer.write_block(number, 0, rng.integers(0, 64, size_bytes, np.uint8).tobytes())
        writer.finish([0.0, 0.0, 0.0])
