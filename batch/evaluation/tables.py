"""What a comparison shows in tables: the paper's three, and where a method fails first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batch.evaluation.measure import Figure, Row, accuracy_by_kind, accuracy_by_set, by_label
from batch.evaluation.runs import CELL_STATES, Label, Run
from batch.evaluation.storing import PARTS

_QUALITY = ("accuracy", "retained", "agreement_em", "bleu", "rouge_l", "kl", "empty_share")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of strings; the first column is text, the others are figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"{self.title}: got {len(row)} of {len(self.head)} cells in {row}")

    def to_text(self) -> list[str]:
        """Lines of columns, figures aligned at the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        return [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]

    def to_markdown(self) -> list[str]:
        """Lines of a section with the table."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (self.head, rule, *self.rows)]
        note = [self.note, ""] if self.note else []
        return [f"## {self.title}", "", *note, *lines, ""]


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


def memory_table(rows: Sequence[Row], runs: Sequence[Run]) -> Table:
    """The paper's Table II: what is stored."""
    shares = {label: _shares(own) for label, own in by_label(runs).items()}
    return Table(
        title="Table II: what is stored",
        note=(
            "Share of cells by tier (a pointer sample stores none); bytes a video, the whole file; "
            "the factors are FP16 K and V of all slots divided by the file, the same against FP32 "
            "(how a published 2.20x can arise), and against K and V alone without the file's "
            "tables and header."
        ),
        head=["method", *CELL_STATES, "bytes", "x FP16", "x FP32", "x FP16, K and V"],
        rows=[[str(row.label), *shares[row.label], *_memory_cells(row.figures)] for row in rows],
    )


def time_table(rows: Sequence[Row], runs: Sequence[Run]) -> Table:
    """The paper's Table III: what it costs."""
    parts = {label: _parts(own) for label, own in by_label(runs).items()}
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
                *parts[row.label],
                _ms(row.figures["seconds_per_sample"].value),
                "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
            ]
            for row in rows
        ],
    )


def kinds_table(runs: Sequence[Run]) -> Table:
    """Accuracy by kind of question."""
    return _shares_table("Accuracy by kind of question", accuracy_by_kind(runs))


def sets_table(runs: Sequence[Run]) -> Table:
    """Accuracy by question set."""
    return _shares_table("Accuracy by question set", accuracy_by_set(runs))


def _shares_table(title: str, found: Mapping[Label, Mapping[str, float]]) -> Table:
    columns = list(dict.fromkeys(name for shares in found.values() for name in shares))
    return Table(
        title=title,
        head=["method", *(column or "all" for column in columns)],
        rows=[
            [str(label), *(f"{shares[column]:.3f}" for column in columns)]
            for label, shares in found.items()
        ],
    )


def _quality_cells(row: Row) -> list[str]:
    if row.void is not None:
        return ["void", *[""] * (len(_QUALITY) - 1)]
    return [_with_interval(row.figures[name]) for name in _QUALITY]


def _memory_cells(figures: Mapping[str, Figure]) -> list[str]:
    file, rows = figures["compression_fp16"].value or 0.0, figures["compression_kv"].value or 0.0
    size = figures["bytes"].value or 0.0
    return [f"{size:,.0f}", f"{file:.2f}", f"{2 * file:.2f}", f"{rows:.2f}"]


def _with_interval(figure: Figure) -> str:
    if figure.value is None:
        return ""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _shares(runs: Sequence[Run]) -> list[str]:
    cells = [run.cell_states for run in runs if run.cell_states is not None]
    if not cells:
        return [""] * len(CELL_STATES)
    total = np.concatenate(cells).sum(axis=0)
    return [f"{share:.1%}" for share in total / total.sum()]


def _parts(runs: Sequence[Run]) -> list[str]:
    if any(run.parts is None for run in runs):
        return [""] * len(PARTS)
    samples = sum(run.samples for run in runs)
    return [_ms(sum((run.parts or {})[part] for run in runs) / samples) for part in PARTS]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"
