"""What the readers of question sets share: rows, options and videos as benchmarks write them."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch.errors import BatchError

_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@contextmanager
def row(file: Path, number: int) -> Iterator[None]:
    """Name the file and the row, counted from 1, in errors about what is in it.

    Raises:
        BatchError: the row lacks a field, or a value cannot be used.
    """
    try:
        yield
    except KeyError as error:
        raise BatchError(f"{file}: row {number} has no field {error}") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise BatchError(f"{file}: row {number}: {error}") from error


def read_json(file: Path) -> Any:
    """Parse a JSON file.

    Raises:
        BatchError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BatchError(f"{file}: cannot be read as JSON: {error}") from error


def plain_options(options: Iterable[str]) -> tuple[str, ...]:
    """Options without the letters "A. ", "B. ", ... if all of them have theirs."""
    listed = tuple(option.strip() for option in options)
    parts = [_LETTERED.fullmatch(option) for option in listed]
    lettered = [part for part in parts if part is not None]
    if [part[1] for part in lettered] != [chr(ord("A") + place) for place in range(len(listed))]:
        return listed
    return tuple(part[2] for part in lettered)


def first_there(candidates: Sequence[Path]) -> Path:
    """The first of some paths that exists; the first of all if none does."""
    return next((path for path in candidates if path.exists()), candidates[0])
