"""How a question is put, when an answer is right, and how like it is to another. Knows text only.

BLEU and ROUGE-L are those that the field reports, by sacrebleu (2.6) and rouge-score (0.1.2), both
of the extra `evaluate`.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

_LETTER = re.compile(r"\W*([A-Za-z])(?:[.:,)]|\W*$)")
"""Alone, or with a mark behind it: "a car" begins with an article."""
_BLEU, _ROUGE = BLEU(), RougeScorer(["rougeL"])


def prompt(question: str, options: Sequence[str]) -> str:
    """The text that the model gets; options become lettered lines."""
    if not options:
        return question
    lettered = map("{}. {}".format, string.ascii_uppercase, options)
    return "\n".join([question, *lettered, "Answer with the letter of the right option."])


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
    """What BLEU counts, video by video, so that any multiset of videos can be scored."""

    counts: NDArray[np.int64]
    """[videos, 10]: matching n-grams and all n-grams of the answers for n = 1..4, then the words
    of answers and of references."""

    @classmethod
    def of(cls, videos: Sequence[Sequence[tuple[str, str]]]) -> Self:
        """Count the (answer, reference) pairs of each video."""
        counts = []
        for pairs in videos:
            answers, references = map(list, zip(*pairs, strict=True))
            found = _BLEU.corpus_score(answers, [references])
            counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        return cls(counts=np.array(counts, np.int64))

    def scores(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corpus BLEU, 0..1, for each row of `times` [n, videos], how often a video counts.

        Orders without a match are left out, so that equal answers of one word score 1.
        """
        scores = []
        for row in (times @ self.counts).tolist():
            matching, all_of_them, (words, reference_words) = row[:4], row[4:8], row[8:]
            found = BLEU.compute_bleu(
                matching,
                all_of_them,
                sys_len=words,
                ref_len=reference_words,
                smooth_method="exp",  # sacrebleu's own default for a corpus
                effective_order=True,
            )
            scores.append(found.score / 100)
        return np.array(scores)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, 0..1; 1 if both are empty."""
    if answer == reference:
        return 1.0
    return float(_ROUGE.score(reference, answer)["rougeL"].fmeasure)
