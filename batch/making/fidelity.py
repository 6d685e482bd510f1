"""How far answers from a file's rows are from answers from the rows that went into it.

Questions that fit any video are answered from exact rows; then these and the file's rows are shown
the same answers, and how likely each makes every token is compared. What the answers say does not
matter. Knows prefixes and models; knows no codec.
"""

import torch
from torch import Tensor

from batch.answering.decoding import Decoder
from batch.kv import Prefix, TieredCache
from batch.models import Family
from cachefmt.header import Fidelity

QUESTIONS = (
    "Describe the first scene.",
    "Describe the last scene.",
    "What is shown in the middle?",
    "Where is the first thing?",
    "What comes after the start?",
    "What colour is on the left?",
    "What was on the right at the end?",
    "How many are there?",
)
"""In words that small vocabularies have too."""
ANSWER_TOKENS = 8
"""Most tokens of an answer."""


class NeutralAnswers:
    """What exact rows answer to `QUESTIONS`, and how likely they make it; rows themselves go."""

    def __init__(self, exact: Prefix, family: Family, *, next_position: tuple[int, ...]) -> None:
        """Answer from rows in memory; `next_position` is as of `Decoder`."""
        self._family = family
        self._next_position = next_position
        self._asked = [family.question_ids(question) for question in QUESTIONS]
        decoder = Decoder(exact, family, next_position=next_position)
        self._answers = decoder.generate(self._asked, [ANSWER_TOKENS] * len(QUESTIONS))
        self._states = self._read(exact)

    @torch.inference_mode()
    def compare(self, rows: Prefix) -> Fidelity:
        """How far the same answers are from what other rows of the same tokens make of them."""
        kl, agrees = 0.0, 0
        # A question at a time: the scores of all would be large.
        for exact, other in zip(self._states, self._read(rows), strict=True):
            wanted, got = map(self._log_probabilities, (exact, other))
            kl += float((wanted.exp() * (wanted - got)).sum())
            agrees += int((wanted.argmax(-1) == got.argmax(-1)).sum())
        tokens = sum(map(len, self._answers))
        # Rounding may leave the divergence of equals below 0.
        mean = max(0.0, kl / tokens)
        return Fidelity(kl=mean, agreement=agrees / tokens, questions=len(QUESTIONS), tokens=tokens)

    def _log_probabilities(self, states: Tensor) -> Tensor:
        """Float32 [tokens, vocabulary] of the model's last states [tokens, hidden]."""
        return self._family.logits(states).float().log_softmax(-1)

    @torch.inference_mode()
    def _read(self, rows: Prefix) -> list[Tensor]:
        """For each answer the last states behind which its tokens come, [tokens, hidden]."""
        decoder = Decoder(rows, self._family, next_position=self._next_position)
        told = zip(self._asked, self._answers, strict=True)
        step, place, padding = decoder.padded([[*asked, *answer[:-1]] for asked, answer in told])
        hidden = decoder.hidden(step, place, TieredCache(rows), padding)
        pairs = zip(hidden, self._answers, strict=True)
        return [states[-len(answer) :] for states, answer in pairs]
