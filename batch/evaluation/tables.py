"""What a comparison shows in tables: the paper's three, and where a method fails first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from batch.evaluation.runs import CELL_STATES, AnsweredQuestion, Run
from batch.evaluation.storing import PARTS
from batch.evaluation.summary import Row, accuracy_by, intervals

_QUALITY = ("accuracy", "retained", "agreement_em", "bleu", "rouge_l", "kl", "empty_share")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of strings; the first column is text, the others are figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_text(self) -> list[str]:
        """Lines of columns, figures aligned at the right."""
        columns = []
        for place, cells in enumerate(zip(self.head, *self.rows, strict=True)):
            width = max(map(len, cells))
            columns.append([cell.rjust(width) if place else cell.ljust(width) for cell in cells])
        return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]

    def to_markdown(self) -> list[str]:
        """Lines of a section with the table."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (self.head, rule, *self.rows)]
        note = [self.note, ""] if self.note else []
        return [f"## {self.title}", "", *note, *lines, ""]


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """A figure and, if one is known, its interval; nothing of one that is not known."""
    shown = "" if value is None else f"{value:.3f}"
    return shown if interval is None else f"{shown} [{interval[0]:.3f}, {interval[1]:.3f}]"


def quality_table(rows: Sequence[Row]) -> Table:
    """The paper's Table I: are the answers still the same, and are they right?"""
    return Table(
        title="Table I: answers",
        note=(
            "accuracy: against the truth; retained: that, divided by the uncompressed model's; "
            "agreement, BLEU, ROUGE-L: against the uncompressed model's answers; KL: of the first "
            "answer token, nats; empty: share of answers without a word. 95 % intervals by "
            "bootstrap over videos."
        ),
        head=["method", "n", *(name.replace("_share", "") for name in _QUALITY)],
        rows=[[str(row.label), str(row.questions), *_quality_cells(row)] for row in rows],
    )


def memory_table(rows: Sequence[Row]) -> Table:
    """The paper's Table II: what is stored."""
    return Table(
        title="Table II: what is stored",
        note=(
            "Share of cells by tier (a pointer sample stores none); bytes a video, the whole file, "
            "but K and V alone of the uncompressed model and of other tools; the factors are FP16 "
            "K and V of all slots divided by the file, the same against FP32 (how a published "
            "2.20x can arise), and against K and V alone without the file's tables and header."
        ),
        head=["method", *CELL_STATES, "bytes", "x FP16", "x FP32", "x FP16, K and V"],
        rows=[[str(row.label), *_state_shares(row.runs), *_memory_cells(row)] for row in rows],
    )


def time_table(rows: Sequence[Row]) -> Table:
    """The paper's Table III: what it costs."""
    return Table(
        title="Table III: time and memory",
        note=(
            "Milliseconds a sample, without answering; evicting rows counts as quantising. Peak: "
            "most bytes above the weights that torch held at one moment of a prefill."
        ),
        head=["method", *PARTS, "all", "peak MB"],
        rows=[
            [
                str(row.label),
                *_parts(row.runs),
                _ms(row.figures["seconds_per_sample"].value or 0.0),
                "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
            ]
            for row in rows
        ],
    )


def accuracy_table(
    title: str, group: Callable[[Run, AnsweredQuestion], str], rows: Sequence[Row]
) -> Table:
    """Accuracy in each group of answers."""
    found = [accuracy_by(group, row.runs) for row in rows]
    columns = list(dict.fromkeys(name for shares in found for name in shares))
    return Table(
        title=title,
        head=["method", *(column or "all" for column in columns)],
        rows=[
            [str(row.label), *(f"{shares[column]:.3f}" for column in columns)]
            for row, shares in zip(rows, found, strict=True)
        ],
    )


def _quality_cells(row: Row) -> list[str]:
    if row.void is not None:
        return ["void", *[""] * (len(_QUALITY) - 1)]
    known = intervals(row.figures)
    return [with_interval(row.figures[name].value, known.get(name)) for name in _QUALITY]


def _memory_cells(row: Row) -> list[str]:
    names = ("bytes", "compression_fp16", "compression_kv")
    size, file, rows = (row.figures[name].value or 0.0 for name in names)
    return [f"{size:,.0f}", f"{file:.2f}", f"{2 * file:.2f}", f"{rows:.2f}"]


def _state_shares(runs: Sequence[Run]) -> list[str]:
    cells = [run.cell_states for run in runs if run.cell_states is not None]
    if not cells:
        return [""] * len(CELL_STATES)
    total = np.concatenate(cells).sum(axis=0)
    return [f"{share:.1%}" for share in total / total.sum()]


def _parts(runs: Sequence[Run]) -> list[str]:
    parts = [run.parts for run in runs if run.parts is not None]
    if not parts:
        return [""] * len(PARTS)
    samples = sum(run.samples for run in runs)
    return [_ms(sum(one[part] for one in parts) / samples) for part in PARTS]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
