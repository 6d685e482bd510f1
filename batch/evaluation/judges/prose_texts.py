"""What the judge of prose reads: text that comes with Python, and numbers hidden in it.

Two sources that have no sentence in common, one to judge by and one to fit schemes to. Knows
token ids, no model. Texts are files, and what is asked of them are questions, as of films.
"""

import ast
import json
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from batch.errors import BatchError
from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.summary import NEXT_TOKENS

FOLLOWING = 256
"""Tokens behind a context whose scores are compared."""
CITIES = ("Lisbon", "Oslo", "Cairo", "Lima", "Delhi")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in a haystack the number of each city is hidden."""
HAYSTACKS = 10
CALIBRATION_MODULES = ("_pydecimal", "difflib", "doctest", "turtle", "typing", "inspect")
"""Of the standard library, with long docstrings: 250,000 characters together."""

Encode = Callable[[str], list[int]]


class Asked(NamedTuple):
    """What is asked: `length` tokens, from the `first` on, of a text `behind` the prefix."""

    question: str
    behind: int
    first: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """Token ids of a prefix and of texts that follow it, each by itself, and what is asked."""

    prefix: list[int]
    following: list[list[int]]
    asked: list[Asked]

    @classmethod
    def read(cls, path: Path) -> Self:
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "asked": [Asked(*one) for one in values["asked"]]})

    def write(self, path: Path, kind: str) -> list[Question]:
        """Write the text; gives its questions, whose answers are token ids."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return [
            Question(video=path, question=one.question, answer=said(self.truth(one)), kind=kind)
            for one in self.asked
        ]

    def truth(self, asked: Asked) -> list[int]:
        return self.following[asked.behind][asked.first : asked.first + asked.length]


def said(ids: Iterable[int]) -> str:
    """Token ids as an answer."""
    return " ".join(map(str, ids))


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


def text_sets(encode: Encode, folder: Path, *, tokens: int, count: int) -> list[QuestionSet]:
    """Write `count` contexts of `tokens` tokens and HAYSTACKS haystacks.

    Raises:
        BatchError: the text is too short for that, or the haystacks for what is hidden in them.
    """
    ids = encode(judged_text())
    kinds = {NEXT_TOKENS: contexts(ids, tokens, count), "needles": haystacks(ids, tokens, encode)}
    return [
        QuestionSet(
            name=kind,
            questions=tuple(
                question
                for number, text in enumerate(texts)
                for question in text.write(folder / f"{kind}-{number}.json", kind)
            ),
        )
        for kind, texts in kinds.items()
    ]


def contexts(ids: Sequence[int], tokens: int, count: int) -> list[Text]:
    """Contexts of `tokens` tokens, evenly over a text; asked are the FOLLOWING behind the next."""
    windows = spread(ids, tokens + 1 + FOLLOWING, count)
    asked = [Asked(f"token {tokens + place}", 0, place, 1) for place in range(1, FOLLOWING + 1)]
    return [Text(prefix=one[:tokens], following=[one[tokens:]], asked=asked) for one in windows]


def haystacks(ids: Sequence[int], tokens: int, encode: Encode) -> list[Text]:
    """HAYSTACKS prefixes of `tokens` tokens, with a number of 5 digits at each of DEPTHS."""
    rng = np.random.default_rng(0)
    found = []
    for window in spread(ids, tokens, HAYSTACKS):
        numbers = rng.integers(10_000, 100_000, len(CITIES)).tolist()
        hidden = dict(zip(CITIES, numbers, strict=True))
        needles = [encode(f"\n\nRemember: {city} = {hidden[city]}.\n\n") for city in CITIES]
        room = tokens - sum(map(len, needles))
        if room < 0:
            raise BatchError(f"contexts of {tokens} tokens: the numbers to be found need more")
        cuts = [round(depth * room) for depth in DEPTHS]
        prefix, start = list[int](), 0
        for cut, needle in zip(cuts, needles, strict=True):
            prefix += [*window[start:cut], *needle]
            start = cut
        prefix += window[start:room]
        following = [encode(f"\n\nRemember: {city} = {hidden[city]}") for city in CITIES]
        asked = []
        for place, city in enumerate(CITIES):
            first = len(encode(f"\n\nRemember: {city} ="))
            asked.append(Asked(city, place, first, len(following[place]) - first))
        found.append(Text(prefix=prefix, following=following, asked=asked))
    return found
