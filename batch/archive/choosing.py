"""Which videos are meant, by patterns of their paths or by columns of the catalogue."""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from fnmatch import fnmatch
from typing import Any

from batch.archive.catalogue import SCHEMA

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_COMPARED = re.compile(rf"({'|'.join(SCHEMA.names)})({'|'.join(_ORDERS)})(.+)")


def column_of(wanted: str) -> str | None:
    """The column that is compared; None: it is a pattern."""
    found = _COMPARED.fullmatch(wanted)
    return None if found is None else found[1]


def is_meant(row: Mapping[str, Any], wanted: str) -> bool:
    """Whether a row of the catalogue, or what is known of it, fits "*/2024/*" or "duration_s>=600".

    A pattern is of a whole path or of the digest, and with "=" of a column that is a text. Times
    are texts as ISO 8601 has them: "finished>=2026-11". What is not known of a video does not fit.
    """
    found = _COMPARED.fullmatch(wanted)
    if found is None:
        return any(fnmatch(name, wanted) for name in (row.get("video") or "", *row["paths"]))
    column, order, limit = found.groups()
    value = row.get(column)
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, str):
        return fnmatch(value, limit) if order == "=" else _ORDERS[order](value, limit)
    try:
        return isinstance(value, int | float) and _ORDERS[order](value, float(limit))
    except ValueError:  # no number
        return False


ADVICE = (
    "a pattern is of the whole path, as in the catalogue: '*/2024/*.mp4', or a column of it is "
    "compared: 'duration_s>=600'"
)
"""For somebody whose choice fits nothing."""


def is_chosen(row: Mapping[str, Any], wanted: Collection[str]) -> bool:
    """Whether a row fits one of them, or there are none."""
    return not wanted or any(is_meant(row, one) for one in wanted)
