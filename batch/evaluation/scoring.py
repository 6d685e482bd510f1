"""How a question is put, when an answer is right, and how like it is to another. Knows text only.

BLEU and ROUGE-L are those that the field reports, by sacrebleu (2.6) and rouge-score (0.1.2), both
of the extra `evaluate`.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

_LETTER = re.compile(r"\W*([A-Za-z])(?:[.:,)]|\W*$)")
"""Alone, or with a mark behind it: "a car" begins with an article."""
_ORDERS = 4


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
    plain = _plain(answer)
    if plain in words:
        return words.index(plain)
    letter = _LETTER.match(answer)
    if letter is not None:
        place = string.ascii_uppercase.index(letter[1].upper())
        if place < len(options):
            return place
    contained = [place for place, option in enumerate(words) if option and option in plain]
    return contained[0] if len(contained) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?").strip()


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """What BLEU counts, video by video, so that any multiset of videos can be scored.

    counts: int64 [videos, 10]: matching n-grams and all n-grams of the answers for n = 1..4,
    then the words of answers and of references.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, videos: Sequence[Sequence[tuple[str, str]]]) -> Self:
        """Count the (answer, reference) pairs of each video."""
        return cls(counts=np.array([_counts(pairs) for pairs in videos], np.int64))

    def scores(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corpus BLEU, 0..1, for each row of `times` [n, videos], how often a video counts.

        Orders without a match are left out, so that equal answers of one word score 1.
        """
        summed = times @ self.counts
        return np.array([_score(row) for row in summed.tolist()], np.float64)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, 0..1; 1 if both are empty."""
    if answer == reference:
        return 1.0
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def _counts(pairs: Sequence[tuple[str, str]]) -> list[int]:
    found = _bleu().corpus_score([answer for answer, _ in pairs], [[own for _, own in pairs]])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def _score(counts: list[int]) -> float:
    words, reference_words = counts[2 * _ORDERS :]
    found = BLEU.compute_bleu(
        counts[:_ORDERS],
        counts[_ORDERS : 2 * _ORDERS],
        sys_len=words,
        ref_len=reference_words,
        smooth_method="exp",  # sacrebleu's own default for a corpus
        effective_order=True,
    )
    return found.score / 100


@cache
def _bleu() -> BLEU:
    return BLEU()


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"])
