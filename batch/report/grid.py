"""Tables as plain text, Markdown and HTML. Knows no figures."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Grid:
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

    def to_html(self) -> list[str]:
        """Lines of a section with the table."""
        note = [f"<p>{html.escape(self.note)}</p>"] if self.note else []
        return [
            f"<h2>{html.escape(self.title)}</h2>",
            *note,
            "<table>",
            _html_row("th", self.head),
            *(_html_row("td", row) for row in self.rows),
            "</table>",
        ]


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
