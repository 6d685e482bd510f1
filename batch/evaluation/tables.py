"""What a comparison shows in tables: the paper's three, and where a method fails first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from batch.evaluation.runs import CELL_STATES, AnsweredQuestion, Run
from batch.evaluation.storing import PARTS
from batch.evaluation.summary import Row, accuracy_by, intervals

_QUALITY = ("accuracy", "retained", "agreement_em", "bleu", "rouge_l", "kl", "empty_share")
_NAMED = ("judge", "method")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of strings; the first columns are texts, the others are figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    texts: int = 1

    def to_text(self) -> list[str]:
        """Lines of columns, figures aligned at the right."""
        columns = []
        for place, cells in enumerate(zip(self.head, *self.rows, strict=True)):
            width = max(map(len, cells))
            is_text = place < self.texts
            columns.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in cells])
        return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]

    def to_markdown(self) -> list[str]:
        """Lines of a section with the table."""
        rule = [*["---"] * self.texts, *["---:"] * (len(self.head) - self.texts)]
        lines = [f"| {' | '.join(line)} |" for line in (self.head, rule, *self.rows)]
        note = [self.note, ""] if self.note else []
        return [f"## {self.title}", "", *note, *lines, ""]


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """A figure and, if one is known, its interval; nothing of one that is not known."""
    shown = "" if value is None else f"{value:.3f}"
    return shown if interval is None else f"{shown} [{interval[0]:.3f}, {interval[1]:.3f}]"


def quality_table(rows: Sequence[Row]) -> Table:
    """The paper's Table I: are the answers still the same, are they right, at how many bytes?"""
    names = (name.replace("_share", "").replace("_em", "") for name in _QUALITY)
    return Table(
        title="Table I: answers",
        note=(
            "In file: whether a cache file can hold it. accuracy: against the truth; retained: "
            "that, divided by the uncompressed model's; agreement, BLEU, ROUGE-L: against the "
            "uncompressed model's answers; KL: of the first answer token, nats; empty: share of "
            "answers without a word; of prose right are numbers hidden in the text, and agreement "
            "and KL are of the next tokens. x FP16: K and V of all slots divided by the file. 95 % "
            "intervals by bootstrap over videos or texts."
        ),
        head=[*_NAMED, "kind", "in file", "n", *names, "x FP16"],
        rows=[[*_named(row), *_quality_cells(row)] for row in rows],
        texts=4,
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
        head=[*_NAMED, *CELL_STATES, "bytes", "x FP16", "x FP32", "x FP16, K and V"],
        rows=[[*_named(row), *_state_shares(row.runs), *_memory_cells(row)] for row in rows],
        texts=2,
    )


def time_table(rows: Sequence[Row]) -> Table:
    """The paper's Table III: what it costs."""
    return Table(
        title="Table III: time and memory",
        note=(
            "Milliseconds a sample, without answering; evicting rows counts as quantising. Peak: "
            "most bytes above the weights that torch held at one moment of a prefill."
        ),
        head=[*_NAMED, *PARTS, "all", "peak MB"],
        rows=[
            [
                *_named(row),
                *_parts(row.runs),
                _ms(row.figures["seconds_per_sample"].value),
                "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
            ]
            for row in rows
        ],
        texts=2,
    )


def accuracy_table(
    title: str, group: Callable[[Run, AnsweredQuestion], str], rows: Sequence[Row]
) -> Table:
    """Accuracy in each group of answers."""
    found = [accuracy_by(group, row.runs) for row in rows]
    columns = list(dict.fromkeys(name for shares in found for name in shares))
    return Table(
        title=title,
        head=[*_NAMED, *(column or "all" for column in columns)],
        rows=[
            [
                *_named(row),
                *(f"{shares[column]:.3f}" if column in shares else "" for column in columns),
            ]
            for row, shares in zip(rows, found, strict=True)
        ],
        texts=2,
    )


def _named(row: Row) -> tuple[str, str]:
    return row.judge, str(row.label)


def _quality_cells(row: Row) -> list[str]:
    known = intervals(row.figures)
    found = [with_interval(row.figures[name].value, known.get(name)) for name in _QUALITY]
    return [
        row.kind or "elsewhere",
        {None: "", True: "yes", False: "no"}[row.in_file],
        str(row.questions),
        *(found if row.void is None else ["void", *[""] * (len(_QUALITY) - 1)]),
        f"{row.figures['compression_fp16'].value or 0:.2f}",
    ]


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


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"
