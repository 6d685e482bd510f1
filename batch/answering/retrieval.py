"""Answers from the few samples of a video that a question is about; the rest is never read."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.answerer import PrefixAnswerer, Reply
from batch.answering.evidence import NEUTRAL, end_of, stretches
from batch.answering.gathering import Arranged, arrange, arrange_text, lay_out, load
from batch.answering.placed import PlacedAnswerer
from batch.answering.ranking import Queries, sample_scores
from batch.answering.rows import Chosen, RowReader
from batch.errors import BatchError
from batch.models import Family
from cachefmt import CacheFile, SampleIndex, tensor_specs

BUDGET_TOKENS = 4096
"""Tokens loaded for a question at most, text included."""
SHARE = 0.4
"""Share of what a question is about that the loaded samples hold, if the budget allows.

Source: 50 needle questions about 10 films of ten minutes (14,000 stored tokens), demo model, budget
4,096. Shares of 0.1, 0.2, 0.3, 0.4, 0.5, 1 load 106, 208, 406, 789, 1,426, 4,019 tokens on average
and give 43, 48, 49, 48, 45, 37 right answers; the whole right segment gives 43.
"""


@dataclass(frozen=True, kw_only=True)
class RetrievedReply(Reply):
    """An answer and what was read for it."""

    samples: tuple[int, ...]
    """Of the video, in order of time: those whose rows were loaded."""
    loaded_tokens: int
    index_bytes: int
    """Read once for all questions: headers, times, indices, the text before the video."""
    rows_bytes: int
    """Read for this question; none if it is about the samples of the question before."""


class Retriever:
    """Answers questions about a video, each from a choice of its own."""

    def __init__(
        self,
        segments: Sequence[CacheFile],
        family: Family,
        *,
        budget_tokens: int = BUDGET_TOKENS,
        share: float = SHARE,
        name: str,
    ) -> None:
        """Read the indices.

        Args:
            segments: of one video, open, in order.
            family: the loaded model that wrote them.
            budget_tokens: to be loaded at most.
            share: of what a question is about, to be loaded if the budget allows, 0..1.
            name: what errors call the cache.

        Raises:
            BatchError: the cache has no index.
            CacheFileError: an index is damaged.
        """
        if not segments[0].header.shape.index_layers:
            raise BatchError(
                f"{name}: was written without an index, since keys of this model cannot be moved "
                "to other positions; ask with --scope all"
            )
        self._family = family
        self._budget_tokens = budget_tokens
        self._share = share
        self._name = name
        self._segments = segments
        self._indices = [SampleIndex.read(segment) for segment in segments]
        self._video = _Video.of(segments, self._indices)
        reader = RowReader(segments)
        self._behind = reader.text_behind(self._indices)
        self._text = arrange_text(reader, self._indices)
        self._alone = PrefixAnswerer(
            load(reader, self._text, family),
            family,
            next_position=self._text.new.next_position,
            name=name,
        )
        self._neutral = self._queries(family.question_ids(NEUTRAL))
        self._loaded: _Loaded | None = None
        read = sum(index.size_bytes for index in self._indices) + sum(map(_header_size, segments))
        self.index_bytes = read + reader.read_bytes

    def ask(
        self, questions: Iterable[str], *, max_new_tokens: int = 64
    ) -> Iterator[RetrievedReply]:
        """Answer questions in order, one at a time: each may need other rows.

        Raises:
            BatchError: a question cannot be asked, or the budget holds no sample.
            CacheFileError: the rows that it needs are damaged.
        """
        asked = list(questions)
        ids = [self._alone.question_ids(question) for question in asked]
        for question, tokens in zip(asked, ids, strict=True):
            reader = RowReader(self._segments)
            loaded = self._load_for(tokens, max_new_tokens, reader)
            (reply,) = loaded.answerer.ask([question], max_new_tokens=max_new_tokens)
            yield RetrievedReply(
                **vars(reply),
                samples=tuple(self._video.numbers(loaded.chosen)),
                loaded_tokens=loaded.tokens,
                index_bytes=self.index_bytes,
                rows_bytes=reader.read_bytes,
            )

    def scores(self, question: str) -> NDArray[np.float32]:
        """How much a question is about each stored sample of the video, as `sample_scores`."""
        return self._scores(self._alone.question_ids(question))

    def _scores(self, ids: list[int]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = sample_scores(
            self._queries(ids), self._neutral, self._indices
        ).numpy()
        return found

    def _queries(self, ids: list[int]) -> list[Tensor]:
        """Those of a question behind the text before the video, for each indexed layer."""
        start = torch.tensor(self._text.new.next_position)
        positions = start + torch.arange(len(ids))[:, None]
        layers = self._segments[0].header.shape.index_layers
        queries = Queries(self._family.language_model, positions, layers)
        self._alone.generate([ids], 1, queries)
        return queries.layers

    def _load_for(self, ids: list[int], max_new_tokens: int, reader: RowReader) -> "_Loaded":
        """The samples that a question is about most, as many as fit; what is there is kept."""
        room = self._family.decoder.context - len(ids) - max_new_tokens
        best = self._best(ids)
        count = bisect_right(range(1, len(best) + 1), room, key=lambda n: self._end(best[:n]))
        for chosen in (sorted(best[:fewer]) for fewer in range(count, 0, -1)):
            if self._loaded is not None and self._loaded.chosen == chosen:
                return self._loaded
            layout = lay_out(self._segments, self._indices, chosen, self._family)
            rows = arrange(reader, self._indices, chosen, self._behind, layout)
            if rows.end <= room:
                self._loaded = None  # one choice is in memory at a time
                self._loaded = self._load(chosen, rows, reader)
                return self._loaded
        raise BatchError(
            f"{self._name}: not even the best sample fits a budget of {self._budget_tokens} "
            "tokens and the model's context; raise --budget-tokens, lower --max-new-tokens"
        )

    def _best(self, ids: list[int]) -> list[Chosen]:
        """The fewest stored samples that hold the share, within the budget; the best first."""
        scores = self._scores(ids)
        order = np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]
        held = np.cumsum(np.maximum(scores[order], 0))
        if len(held) and held[-1] > 0:
            order = order[: int(np.searchsorted(held, self._share * held[-1])) + 1]
        tokens = np.concatenate([index.tokens for index in self._indices])[order]
        text = len(self._text.old) + self._behind.stop - self._behind.start
        within = np.cumsum(tokens) + text <= self._budget_tokens
        return [self._video.stored[at] for at in order[: int(within.sum())]]

    def _end(self, chosen: list[Chosen]) -> int:
        """Positions that samples take, in any order."""
        layout = lay_out(self._segments, self._indices, sorted(chosen), self._family)
        return max(int(layout.positions.max()) + 1, *layout.next_position)

    def _load(self, chosen: list[Chosen], rows: Arranged, reader: RowReader) -> "_Loaded":
        return _Loaded(
            chosen=chosen,
            tokens=len(rows.old),
            answerer=PlacedAnswerer(
                load(reader, rows, self._family),
                self._family,
                sample=torch.from_numpy(rows.number),
                stretch_s=self._video.stretch_s(chosen),
                next_position=rows.new.next_position,
                name=self._name,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """Chosen samples in memory."""

    chosen: list[Chosen]
    tokens: int
    answerer: PlacedAnswerer


@dataclass(frozen=True, kw_only=True)
class _Video:
    """The samples of all segments as one."""

    stored: list[Chosen]
    firsts: list[int]
    """The sample of the video that is sample 0 of each segment."""
    ends_s: list[float]
    """Until when the last sample of each segment is on screen."""
    indices: list[SampleIndex]

    @classmethod
    def of(cls, segments: Sequence[CacheFile], indices: list[SampleIndex]) -> "_Video":
        times = [index.time_s for index in indices]
        return cls(
            stored=[
                Chosen(number, place)
                for number, index in enumerate(indices)
                for place in range(len(index.stored))
            ],
            firsts=[segment.header.segment.first_sample for segment in segments],
            ends_s=[end_of(*pair) for pair in zip_longest(times, times[1:])],
            indices=indices,
        )

    def numbers(self, chosen: Sequence[Chosen]) -> list[int]:
        """Which samples of the video these are."""
        return [self.firsts[s] + int(self.indices[s].stored[place]) for s, place in chosen]

    def stretch_s(self, chosen: Sequence[Chosen]) -> NDArray[np.float64]:
        """The times that these stand for, [chosen, 2]."""
        of_segment = {
            s: stretches(self.indices[s].time_s, self.indices[s].source, self.ends_s[s])
            for s in {s for s, _ in chosen}
        }
        return np.stack([of_segment[s][self.indices[s].stored[place]] for s, place in chosen])


def _header_size(segment: CacheFile) -> int:
    specs = tensor_specs(segment.header.shape).values()
    return segment.size_bytes - sum(spec.size_bytes for spec in specs)
