"""Answers from the few samples of a video that a question is about; the rest is never read."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.answerer import PrefixAnswerer, Reply
from batch.answering.evidence import NEUTRAL
from batch.answering.gathering import Arranged, arrange, arrange_text, lay_out, load
from batch.answering.placed import PlacedAnswerer
from batch.answering.ranking import Queries, sample_scores
from batch.answering.rows import Chosen, RowReader
from batch.answering.selection import StoredSamples, fewest
from batch.errors import BatchError
from batch.models import Family
from cachefmt import CacheFile, SampleIndex, tensor_specs

BUDGET_TOKENS = 4096
"""Tokens loaded for a question at most, text included."""
SHARES = (0.4, 0.7)
"""Shares of what a question is about that are loaded, one after the other; the answer is that of
the load which makes its own likelier.

Source: 78 needle questions about 6 drawn hours (63,000 to 72,000 stored tokens), demo model, budget
4,096. Shares of 0.4, 0.5, 0.7 alone give 59, 63, 67 right answers; the likelier of 0.4 and 0.7
gives 71, of 0.1 and 0.7 68, of 0.5 and 0.7 72. Without the median taken off (see `fewest`), 0.4
alone gives 61.
"""


@dataclass(frozen=True, kw_only=True)
class RetrievedReply(Reply):
    """An answer and what was read for it."""

    samples: tuple[int, ...]
    """Of the video, in order of time: those whose rows were loaded."""
    loaded_tokens: int
    """Of all loads together."""
    index_bytes: int
    """Read once for all questions: headers, times, indices, the text before the video."""
    rows_bytes: int
    """Read for this question; none if it is about the samples of the question before."""
    likelihood: float
    """Natural logarithm of the probability of a token of the answer, a mean."""


class Retriever:
    """Answers questions about a video, each from a choice of its own."""

    def __init__(
        self,
        segments: Sequence[CacheFile],
        family: Family,
        *,
        budget_tokens: int = BUDGET_TOKENS,
        shares: Sequence[float] = SHARES,
        end_s: float | None = None,
        name: str,
    ) -> None:
        """Read the indices.

        Args:
            segments: of one video, open, in order.
            family: the loaded model that wrote them.
            budget_tokens: to be loaded for a question at most.
            shares: of what a question is about, 0..1, rising, to be loaded if the budget allows;
                each answers, and the likeliest answer counts.
            end_s: until when the last sample is on screen; None: as long as others usually are.
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
        self._shares = shares
        self._name = name
        self._segments = segments
        self._indices = [SampleIndex.read(segment) for segment in segments]
        self._video = StoredSamples.of(segments, self._indices, end_s)
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
        self._loaded: dict[tuple[Chosen, ...], _Loaded] = {}
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
            yield self._reply(question, tokens, max_new_tokens)

    def scores(self, question: str) -> NDArray[np.float32]:
        """How much a question is about each stored sample of the video, as `sample_scores`."""
        return self._scores(self._alone.question_ids(question))

    def _reply(self, question: str, ids: list[int], max_new_tokens: int) -> RetrievedReply:
        reader = RowReader(self._segments)
        loads = self._loads_for(ids, max_new_tokens, reader)
        likelihood, reply = _likeliest(loads, question, max_new_tokens)
        return RetrievedReply(
            **vars(reply),
            samples=tuple(self._video.numbers(loads[-1].chosen)),
            loaded_tokens=sum(load.tokens for load in loads),
            index_bytes=self.index_bytes,
            rows_bytes=reader.read_bytes,
            likelihood=likelihood,
        )

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

    def _loads_for(self, ids: list[int], max_new_tokens: int, reader: RowReader) -> list["_Loaded"]:
        """Of each share the samples that hold it, as far as all fit; what is there is kept."""
        room = self._family.decoder.context - len(ids) - max_new_tokens
        left, scores = self._budget_tokens, self._scores(ids)
        text = len(self._text.old) + self._behind.stop - self._behind.start
        plans: dict[tuple[Chosen, ...], Arranged | None] = {}
        most = 0
        for share in self._shares:
            order = fewest(scores, share)
            tokens = np.cumsum(self._video.tokens[order]) + text
            best = [self._video.stored[at] for at in order[: int((tokens <= left).sum())]]
            chosen, rows = self._fitting(best, room, reader) if len(best) > most else ((), None)
            if len(chosen) > most:
                plans[chosen] = rows
                most = len(chosen)
                left -= int(tokens[most - 1])
        if not plans:
            raise BatchError(
                f"{self._name}: not even the best sample fits a budget of {self._budget_tokens} "
                f"tokens and the {max(room, 0)} positions that a question of {len(ids)} tokens and "
                "its answer leave of the model's context; raise --budget-tokens, lower "
                "--max-new-tokens or ask more briefly"
            )
        self._loaded = {chosen: self._loaded[chosen] for chosen in plans if chosen in self._loaded}
        for chosen, rows in plans.items():
            if rows is not None:
                self._loaded[chosen] = self._load(chosen, rows, reader)
        return [self._loaded[chosen] for chosen in plans]

    def _fitting(
        self, best: list[Chosen], room: int, reader: RowReader
    ) -> tuple[tuple[Chosen, ...], Arranged | None]:
        """As many of the best samples as take no more than `room` positions, in order of time.

        Where they go is None if they are loaded already.
        """
        count = bisect_right(range(1, len(best) + 1), room, key=lambda n: self._end(best[:n]))
        for fewer in range(count, 0, -1):
            chosen = tuple(sorted(best[:fewer]))
            there = self._loaded.get(chosen)
            if there is not None and there.end <= room:
                return chosen, None
            layout = lay_out(self._segments, self._indices, chosen, self._family)
            rows = arrange(reader, self._indices, chosen, self._behind, layout)
            if rows.end <= room:
                return chosen, rows
        return (), None

    def _end(self, chosen: list[Chosen]) -> int:
        """Positions that samples take, in any order."""
        layout = lay_out(self._segments, self._indices, sorted(chosen), self._family)
        return max(int(layout.positions.max()) + 1, *layout.next_position)

    def _load(self, chosen: tuple[Chosen, ...], rows: Arranged, reader: RowReader) -> "_Loaded":
        return _Loaded(
            chosen=chosen,
            tokens=len(rows.old),
            end=rows.end,
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

    chosen: tuple[Chosen, ...]
    """In order of time."""
    tokens: int
    end: int
    """Positions that are taken before the question."""
    answerer: PlacedAnswerer


def _likeliest(loads: list[_Loaded], question: str, max_new_tokens: int) -> tuple[float, Reply]:
    """Of the answers of all loads the one that its load makes likeliest, and how likely."""
    said: list[tuple[float, Reply]] = []
    for loaded in loads:
        exchanges = list(loaded.answerer.converse([question], max_new_tokens=max_new_tokens))
        (likelihood,) = loaded.answerer.log_likelihoods(exchanges)
        said.append((likelihood, exchanges[0].reply))
    return max(said, key=itemgetter(0))


def _header_size(segment: CacheFile) -> int:
    specs = tensor_specs(segment.header.shape).values()
    return segment.size_bytes - sum(spec.size_bytes for spec in specs)
