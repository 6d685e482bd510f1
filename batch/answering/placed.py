"""Answers over rows whose samples are known: they name the times of the video they rest on."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.answerer import PrefixAnswerer
from batch.answering.evidence import (
    NEUTRAL,
    TimeRange,
    end_of,
    sample_evidence,
    stretches,
    time_ranges,
)
from batch.kv import Evidence, Prefix
from batch.models import Family
from cachefmt import CacheFile
from cachefmt import tensors as file_tensors


class PlacedAnswerer(PrefixAnswerer):
    """Answers over rows whose samples are known, and names the times that answers rest on."""

    def __init__(
        self,
        prefix: Prefix,
        family: Family,
        *,
        sample: Tensor,
        stretch_s: NDArray[np.float64],
        next_position: tuple[int, ...],
        name: str,
    ) -> None:
        """As `PrefixAnswerer`.

        Args:
            sample: int [rows of the prefix]; -1 is text outside samples.
            stretch_s: the time that each sample stands for, as of `stretches`, [samples, 2].
        """
        super().__init__(prefix, family, next_position=next_position, name=name)
        self._sample = sample
        self._stretch_s = stretch_s
        self._neutral: NDArray[np.float32] | None = None

    def attention(
        self, questions: list[list[int]], max_new_tokens: int
    ) -> tuple[list[list[int]], Tensor]:
        """Answer, and tell what attention the tokens of each answer pay to each sample.

        Args:
            questions: token ids of each.
            max_new_tokens: of each answer.

        Returns:
            The answers' token ids, and float32 [questions, layers, heads, samples], a mean over
            the tokens of an answer; pointers get none.
        """
        evidence = Evidence(
            self._prefix,
            self._sample,
            groups=len(self._stretch_s),
            sequences=len(questions),
        )
        return self.generate(questions, max_new_tokens, evidence), evidence.mass

    def _answer(
        self, questions: list[list[int]], max_new_tokens: int
    ) -> tuple[list[list[int]], list[list[TimeRange]]]:
        if self._neutral is None:
            _, paid = self.attention([self._family.question_ids(NEUTRAL)], 1)
            self._neutral = paid[0].numpy()
        answers, found = self.attention(questions, max_new_tokens)
        return answers, [
            time_ranges(sample_evidence(mass, self._neutral), self._stretch_s)
            for mass in found.numpy()
        ]


class Answerer(PlacedAnswerer):
    """Answers questions from one cache file: of a whole video, or of one segment."""

    def __init__(
        self, cache: CacheFile, family: Family, following: CacheFile | None = None
    ) -> None:
        """Use an open cache with a loaded model, which must be the one that wrote it.

        Args:
            following: the segment behind, where there is one: this one's last sample is on screen
                until that begins.
        """
        time_s = cache.array("sample.time_s")
        end_s = end_of(time_s, None if following is None else following.array("sample.time_s"))
        super().__init__(
            Prefix.load(cache, family.layer_devices),
            family,
            sample=file_tensors.tensor(cache, "token.sample"),
            stretch_s=stretches(time_s, cache.array("sample.source"), end_s),
            next_position=cache.header.layout.next_position,
            name=str(cache.path),
        )
        self._cache = cache

    @property
    def path(self) -> Path:
        """The cache file."""
        return self._cache.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cache.close()
