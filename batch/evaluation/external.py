"""Answers of methods that ran elsewhere, in environments of their own, as rows of the same table.

One JSON object a line: `method`, `profile`, `video`, `question`, `answer`, `bytes`, `seconds`.
`bytes` and `seconds` are of the whole video, the same in each of its lines.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from batch.errors import BatchError
from batch.evaluation.runs import UNCOMPRESSED, Asked, Label, Run

_KEYS = {"method", "profile", "video", "question", "answer", "bytes", "seconds"}


def read_external(path: Path, runs: Sequence[Run]) -> Iterator[Run]:
    """Runs of every method in a file, on the questions of these runs; other videos are passed by.

    Raises:
        BatchError: not such a file, or a method lacks an answer that the others give.
    """
    lines = _read(path)
    reference = [run for run in runs if run.label == UNCOMPRESSED]
    by_method = sorted(lines, key=_method)
    for (method, profile), own in groupby(by_method, key=_method):
        found = {(line["video"], line["question"]): line for line in own}
        label = Label(method=method, profile=profile or None)
        for run in reference:
            missing = [
                asked.question.question
                for asked in run.asked
                if (run.video, asked.question.question) not in found
            ]
            if missing:
                raise BatchError(
                    f"{path}: {label} lacks {len(missing)} of {len(run.asked)} answers about "
                    f"{run.video}, such as {missing[0]!r}; run it on the same films"
                )
            yield _run(label, run, found)


def _run(label: Label, reference: Run, found: dict[tuple[str, str], dict[str, Any]]) -> Run:
    own = [found[reference.video, asked.question.question] for asked in reference.asked]
    return Run(
        label=label,
        data=reference.data,
        video=reference.video,
        samples=reference.samples,
        fp16_bytes=reference.fp16_bytes,
        slots=reference.slots,
        size_bytes=own[0]["bytes"],
        kv_bytes=own[0]["bytes"],
        seconds=own[0]["seconds"],
        parts=None,
        tokens=None,
        by_sample=None,
        sample_bytes=None,
        peak_bytes=None,
        asked=tuple(
            Asked(
                question=asked.question,
                reference=asked.reference,
                answer=line["answer"],
                kl=None,
            )
            for asked, line in zip(reference.asked, own, strict=True)
        ),
    )


def _method(line: dict[str, Any]) -> tuple[str, str]:
    return line["method"], line["profile"] or ""


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
