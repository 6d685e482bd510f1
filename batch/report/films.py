"""A page for people: the frames of films, what was asked about them and what came back."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDTH_PX = 150


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question, its answer, the truth, and a word about an answer that is not the truth."""

    question: str
    answer: str
    truth: str
    remark: str


@dataclass(frozen=True, kw_only=True)
class Film:
    """One film: frames uint8 RGB [height, width, 3] with their times, and rows about it."""

    name: str
    facts: str
    frames: Sequence[tuple[float, NDArray[np.uint8]]]
    rows: Sequence[Row]


_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}figure{display:inline-block;margin:3px}"
    "figcaption{color:#666;font-size:12px}td,th{text-align:left;padding:2px 14px 2px 0}"
    "td.no{color:#b00}"
)


def page(title: str, introduction: str, films: Sequence[Film]) -> str:
    """The page as one file of HTML, pictures included."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>",
    ]
    for film in films:
        parts.append(f"<h2>{html.escape(film.name)}</h2><p>{html.escape(film.facts)}</p>")
        parts += [_figure(time_s, frame) for time_s, frame in film.frames]
        parts.append("<table><tr><th>question<th>answer<th>truth<th></tr>")
        parts += map(_row, film.rows)
        parts.append("</table>")
    return "\n".join(parts)


def _figure(time_s: float, frame: NDArray[np.uint8]) -> str:
    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, "JPEG", quality=85)
    data = base64.b64encode(picture.getvalue()).decode()
    source = f'<img width={_WIDTH_PX} alt="" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{source}<figcaption>{time_s:.0f} s</figcaption></figure>"


def _row(row: Row) -> str:
    kind = ' class="no"' if row.remark else ""
    cells = (row.question, row.answer, row.truth, row.remark)
    inside = "".join(f"<td{kind}>{html.escape(cell)}" for cell in cells)
    return f"<tr>{inside}</tr>"
