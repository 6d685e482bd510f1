"""What the judge of prose reads: text that comes with Python, and numbers hidden in it.

Two sources that have no sentence in common, one to judge by and one to fit schemes to. Knows
token ids, no model.
"""

import ast
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batch.errors import BatchError

TEST_SOURCE = "pydoc_data/topics.py, Python's reference as `help` shows it"
FOLLOWING = 256
"""Tokens behind a context whose scores are compared."""
CITIES = ("Lisbon", "Oslo", "Cairo", "Lima", "Delhi")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in a haystack the number of each city is hidden."""
HAYSTACKS = 10
CALIBRATION_MODULES = ("_pydecimal", "difflib", "doctest", "turtle", "typing", "inspect")
"""Of the standard library, with long docstrings: 250,000 characters together."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Tokens of a prefix, and what follows it: the first of them, then FOLLOWING to be scored."""

    prefix: list[int]
    following: list[int]


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """A prefix with numbers hidden in it, and questions: token ids of a question, of its answer."""

    prefix: list[int]
    questions: list[tuple[list[int], list[int]]]


def judged_text() -> str:
    """All topics of Python's reference, about 465,000 characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def calibration_text() -> str:
    """Docstrings of modules, classes and functions in CALIBRATION_MODULES."""
    found = []
    for module in CALIBRATION_MODULES:
        file = Path(sysconfig.get_path("stdlib"), f"{module}.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, found))


def spread(ids: Sequence[int], length: int, count: int) -> list[list[int]]:
    """`count` windows of `length` tokens, evenly over a text and without overlap.

    Raises:
        BatchError: the text is too short for that.
    """
    if count * length > len(ids):
        raise BatchError(f"{count} contexts of {length} tokens: the text has only {len(ids)}")
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    return [list(ids[start : start + length]) for start in starts.tolist()]


def contexts(ids: Sequence[int], tokens: int, count: int) -> list[Context]:
    """Contexts of `tokens` tokens, evenly over a text."""
    windows = spread(ids, tokens + 1 + FOLLOWING, count)
    return [Context(prefix=one[:tokens], following=one[tokens:]) for one in windows]


def haystacks(ids: Sequence[int], tokens: int, encode: Encode) -> list[Haystack]:
    """HAYSTACKS prefixes of `tokens` tokens, with a number of 5 digits at each of DEPTHS."""
    rng = np.random.default_rng(0)
    found = []
    for window in spread(ids, tokens, HAYSTACKS):
        numbers = [str(number) for number in rng.integers(10_000, 100_000, len(CITIES))]
        needles = [
            encode(f"\n\nRemember: {city} = {number}.\n\n")
            for city, number in zip(CITIES, numbers, strict=True)
        ]
        room = tokens - sum(map(len, needles))
        if room < 0:
            raise BatchError(f"contexts of {tokens} tokens: the numbers to be found need more")
        cuts = [round(depth * room) for depth in DEPTHS]
        prefix, start = list[int](), 0
        for cut, needle in zip(cuts, needles, strict=True):
            prefix += [*window[start:cut], *needle]
            start = cut
        prefix += window[start:room]
        asked = [_question(*pair, encode) for pair in zip(CITIES, numbers, strict=True)]
        found.append(Haystack(prefix=prefix, questions=asked))
    return found


def _question(city: str, number: str, encode: Encode) -> tuple[list[int], list[int]]:
    question = encode(f"\n\nRemember: {city} =")
    whole = encode(f"\n\nRemember: {city} = {number}")
    return question, whole[len(question) :]
