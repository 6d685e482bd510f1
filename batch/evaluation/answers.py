"""Answers as files: those of methods that ran elsewhere come in, every single answer goes out.

What comes in is one JSON object a line: `method`, `profile`, `video`, `question`, `answer`,
`bytes`, `seconds`; the last two are of the whole video, the same in each of its lines. What goes
out is one Parquet file, for whoever wants other figures.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError
from batch.evaluation.runs import UNCOMPRESSED, AnsweredQuestion, Label, Run

_KEYS = {"method", "profile", "video", "question", "answer", "bytes", "seconds"}


def read_external(path: Path, runs: Sequence[Run]) -> Iterator[Run]:
    """Runs of every method in a file, on the questions of these runs.

    Other videos are passed by, and methods that answered about others only.

    Raises:
        BatchError: not such a file, or a method lacks an answer that the others give.
    """
    methods: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for line in _read(path):
        own = methods[line["method"], line["profile"] or ""]
        own[line["video"], line["question"]] = line
    reference = [run for run in runs if run.label == UNCOMPRESSED]
    films = {run.video for run in reference}
    for (method, profile), own in sorted(methods.items()):
        if films.isdisjoint(video for video, _ in own):
            continue
        label = Label(method=method, profile=profile or None)
        for run in reference:
            asked = [one.question.question for one in run.answers]
            missing = [question for question in asked if (run.video, question) not in own]
            if missing:
                raise BatchError(
                    f"{path}: {label} lacks {len(missing)} of {len(asked)} answers about "
                    f"{run.video}, such as {missing[0]!r}; run it on the same films"
                )
            lines = [own[run.video, question] for question in asked]
            yield Run(
                label=label,
                kind=None,
                in_file=None,
                data=run.data,
                video=run.video,
                samples=run.samples,
                fp16_bytes=run.fp16_bytes,
                slots=run.slots,
                size_bytes=lines[0]["bytes"],
                kv_bytes=lines[0]["bytes"],
                seconds=lines[0]["seconds"],
                answers=tuple(
                    replace(one, answer=line["answer"], kl=None)
                    for one, line in zip(run.answers, lines, strict=True)
                ),
            )


def _read(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise BatchError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(line, dict) or set(line) != _KEYS:
            got = sorted(line) if isinstance(line, dict) else type(line).__name__
            raise BatchError(f"{path}, line {number}: got {got}, expected {sorted(_KEYS)}")
        lines.append(line)
    return lines


def write_answers(runs: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Write a row for each method and question of the runs of each judge."""
    rows = [
        {"judge": judge, **_row(run, one)}
        for judge, own in runs.items()
        for run in own
        for one in run.answers
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _row(run: Run, one: AnsweredQuestion) -> dict[str, Any]:
    return {
        "data": run.data,
        "video": run.video,
        "samples": run.samples,
        "kind": one.question.kind,
        "question": one.question.question,
        "options": list(one.question.options),
        "truth": one.question.answer,
        **asdict(run.label),
        "answer": one.answer,
        "uncompressed": one.reference,
        "right": one.is_right,
        "uncompressed_right": one.is_reference_right,
        "kl": one.kl,
        "nll_rise": one.nll_rise,
        "slots": run.slots,
        "fp16_bytes": run.fp16_bytes,
        "bytes": run.size_bytes,
        "kv_bytes": run.kv_bytes,
        **{f"tokens_{tier.lower()}": count for tier, count in (run.tokens or {}).items()},
        "seconds": run.seconds,
        **{f"{part}_seconds": seconds for part, seconds in (run.parts or {}).items()},
        "peak_bytes": run.peak_bytes,
    }
