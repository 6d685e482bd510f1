"""Answers over rows whose samples are known: they name the times of the video they rest on."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.answerer import PrefixAnswerer
from batch.answering.evidence import NEUTRAL, TimeRange, sample_evidence, time_ranges
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
        time_s: NDArray[np.float64],
        source: NDArray[np.int32],
        next_position: tuple[int, ...],
        name: str,
    ) -> None:
        """As `PrefixAnswerer`.

        Args:
            sample: int [rows of the prefix]; -1 is text outside samples.
            time_s: when each sample is on screen, [samples].
            source: the stored sample that stands for each, [samples].
        """
        super().__init__(prefix, family, next_position=next_position, name=name)
        self._sample = sample
        self._time_s = time_s
        self._source = source
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
            groups=len(self._time_s),
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
            time_ranges(sample_evidence(mass, self._neutral), self._time_s, self._source)
            for mass in found.numpy()
        ]


class Answerer(PlacedAnswerer):
    """Answers questions from one cache file: of a whole video, or of one segment."""

    def __init__(self, cache: CacheFile, family: Family) -> None:
        """Use an open cache with a loaded model, which must be the one that wrote it."""
        super().__init__(
            Prefix.load(cache, family.layer_devices),
            family,
            sample=file_tensors.tensor(cache, "token.sample"),
            time_s=cache.array("sample.time_s"),
            source=cache.array("sample.source"),
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
