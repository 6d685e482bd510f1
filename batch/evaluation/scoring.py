"""How a question is put, and when an answer to it is right. Knows text only."""

import re
import string
from collections.abc import Sequence

_LETTER = re.compile(r"\W*([A-Za-z])(?:[.:,)]|\W*$)")
"""Alone, or with a mark behind it: "a car" begins with an article."""


def prompt(question: str, options: Sequence[str]) -> str:
    """The text that the model gets; options become lettered lines."""
    if not options:
        return question
    lines = [
        f"{letter}. {option}"
        for letter, option in zip(string.ascii_uppercase, options, strict=False)
    ]
    return "\n".join([question, *lines, "Answer with the letter of the right option."])


def is_right(answer: str, truth: str, options: Sequence[str]) -> bool:
    """Whether an answer is the truth: the same option, or, without options, the same words.

    Case, spaces and punctuation at the end do not count. The truth of a question with options is
    the text or the letter of one.
    """
    if not options:
        return _plain(answer) == _plain(truth)
    chosen = chosen_option(answer, options)
    return chosen is not None and chosen == chosen_option(truth, options)


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """The option that an answer names by its text, its letter, or as the only one it contains."""
    words = [_plain(option) for option in options]
    said = _plain(answer)
    if said in words:
        return words.index(said)
    letter = _LETTER.match(answer)
    if letter is not None:
        place = string.ascii_uppercase.index(letter[1].upper())
        if place < len(options):
            return place
    contained = [place for place, option in enumerate(words) if option and option in said]
    return contained[0] if len(contained) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?").strip()
