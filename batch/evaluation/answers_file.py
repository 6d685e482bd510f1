"""Every single answer of a comparison as one Parquet file, for whoever wants other figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.evaluation.measure import reference_right, right
from batch.evaluation.runs import Asked, Run


def write_answers(runs: Sequence[Run], path: Path) -> None:
    """A row for each method and question."""
    rows = [_row(run, one) for run in runs for one in run.asked]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _row(run: Run, one: Asked) -> dict[str, Any]:
    return {
        "data": run.data,
        "video": run.video,
        "samples": run.samples,
        "kind": one.question.kind,
        "question": one.question.question,
        "options": list(one.question.options),
        "truth": one.question.answer,
        "method": run.label.method,
        "profile": run.label.profile,
        "budget": run.label.budget,
        "answer": one.answer,
        "uncompressed": one.reference,
        "right": right(one),
        "uncompressed_right": reference_right(one),
        "kl": one.kl,
        "slots": run.slots,
        "fp16_bytes": run.fp16_bytes,
        "bytes": run.size_bytes,
        "kv_bytes": run.kv_bytes,
        **{f"tokens_{tier.lower()}": count for tier, count in (run.tokens or {}).items()},
        "seconds": run.seconds,
        **{f"{part}_seconds": seconds for part, seconds in (run.parts or {}).items()},
        "peak_bytes": run.peak_bytes,
    }
