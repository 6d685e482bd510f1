"""Answers from the few samples of a video that a question is about; the rest is never read."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering.answerer import Answer, PrefixAnswerer, RowSamples, Turns, question_ids
from batch.answering.evidence import NEUTRAL
from batch.answering.finding import Queries, fewest, sample_scores
from batch.answering.gathering import Arranged, arrange, arrange_text, lay_out, load
from batch.answering.samples import StoredSample, StoredVideo
from batch.errors import BatchError
from batch.kv.rotation import why_fixed
from batch.models import Family
from batch.settings import AnswerSettings
from cachefmt import CacheFile

SHARES = (0.4, 0.7)
"""Shares of what a question is about that are loaded, one after the other; the answer is that of
the load which makes its own likelier.

Source: 78 needle questions about 6 drawn hours (63,000 to 72,000 stored tokens), demo model, budget
4,096. Shares of 0.4, 0.5, 0.7 alone give 59, 63, 67 right answers; the likelier of 0.4 and 0.7
gives 71, of 0.1 and 0.7 68, of 0.5 and 0.7 72. Without the median taken off (see `fewest`), 0.4
alone gives 61.
"""


@dataclass(frozen=True, kw_only=True)
class RetrievedAnswer(Answer):
    """An answer and what was read for it."""

    samples: tuple[int, ...]
    """Of the video, in order of time: those whose rows were loaded."""
    loaded_tokens: int
    """Of all loads together."""
    index_bytes: int
    """Read once for all questions: headers, tables, indices, the text before the video."""
    rows_bytes: int
    """Read for this question; nothing of blocks that a question before it needed not long ago."""
    likelihood: float
    """Natural logarithm of the probability of a token of the answer, a mean."""


@dataclass(frozen=True, kw_only=True)
class _Load:
    """Chosen samples in memory, in order of time."""

    chosen: tuple[StoredSample, ...]
    tokens: int
    end: int
    """Positions that are taken before the question."""
    answerer: PrefixAnswerer


class Retriever:
    """Answers questions about a video, each from a choice of its own."""

    def __init__(
        self,
        segments: Sequence[CacheFile],
        family: Family,
        *,
        budget_tokens: int = AnswerSettings.budget_tokens,
        shares: Sequence[float] = SHARES,
        end_s: float | None = None,
        name: str,
    ) -> None:
        """Read the indices of all segments of a video, with the loaded model that wrote them.

        Of the file of a whole video, which has none, all blocks are read for one.

        Args:
            shares: of what a question is about, 0..1, rising, to be loaded if the budget allows;
                each answers, and the likeliest answer counts.
            end_s: until when the last sample is on screen; None: as long as others usually are.
            name: what errors call the cache.

        Raises:
            BatchError: the cache cannot be searched.
            CacheFileError: what is read is damaged.
        """
        reason = why_fixed(family.config)
        if reason is not None:
            raise BatchError(
                f"{name}: cannot be searched, since keys of this model cannot be moved to other "
                f"positions ({reason}); ask with --scope each-segment"
            )
        self._family = family
        self._budget_tokens = budget_tokens
        self._shares = shares
        self._name = name
        self._video = StoredVideo(
            segments, family.rotation, device=family.layer_devices[0], end_s=end_s
        )
        text, behind = arrange_text(self._video), self._video.text_behind
        self._text_tokens = len(text.positions) + behind.stop - behind.start
        self._question_position = text.next_position
        self._alone = PrefixAnswerer(
            load(self._video, text, family), family, next_position=text.next_position, name=name
        )
        self._neutral = self._queries(family.question_ids(NEUTRAL))
        self._loads: dict[tuple[StoredSample, ...], _Load] = {}
        self.index_bytes = self._video.read_bytes

    def ask_all(
        self, questions: Iterable[Turns], *, max_new_tokens: int = 64
    ) -> Iterator[RetrievedAnswer]:
        """Answer questions in order, one at a time: each may need other rows.

        Raises:
            BatchError: a question cannot be asked, or the budget holds no sample.
            CacheFileError: the rows that it needs are damaged.
        """
        asked = list(questions)
        ids = [question_ids(self._family, question) for question in asked]
        for question, tokens in zip(asked, ids, strict=True):
            yield self._answer(question, tokens, max_new_tokens)

    def scores(self, ids: list[int]) -> NDArray[np.float32]:
        """How much a question's tokens are about each stored sample, as `sample_scores`."""
        scores = sample_scores(self._queries(ids), self._neutral, self._video.bounds)
        found: NDArray[np.float32] = scores.numpy()
        return found

    def _answer(self, question: Turns, ids: list[int], max_new_tokens: int) -> RetrievedAnswer:
        before = self._video.read_bytes
        loads = self._loads_for(ids, max_new_tokens)
        found: list[tuple[float, Answer]] = []
        for one in loads:
            exchanges = list(one.answerer.converse([question], max_new_tokens=max_new_tokens))
            (likelihood,) = one.answerer.log_likelihoods(exchanges)
            found.append((likelihood, exchanges[0].answer))
        likelihood, answer = max(found, key=itemgetter(0))
        return RetrievedAnswer(
            **vars(answer),
            samples=tuple(self._video.numbers(loads[-1].chosen)),
            loaded_tokens=sum(one.tokens for one in loads),
            index_bytes=self.index_bytes,
            rows_bytes=self._video.read_bytes - before,
            likelihood=likelihood,
        )

    def _queries(self, ids: list[int]) -> list[Tensor]:
        """Those of a question behind the text before the video, for each indexed layer."""
        start = torch.tensor(self._question_position)
        positions = start + torch.arange(len(ids))[:, None]
        queries = Queries(self._family.language_model, positions, self._video.index_layers)
        self._alone.generate([ids], 1, queries)
        return queries.layers

    def _loads_for(self, ids: list[int], max_new_tokens: int) -> list[_Load]:
        """Of each share the samples that hold it, as far as all fit; what is there is kept."""
        room = self._family.decoder.context - len(ids) - max_new_tokens
        left, scores = self._budget_tokens, self.scores(ids)
        plans: dict[tuple[StoredSample, ...], Arranged | None] = {}
        most = 0
        for share in self._shares:
            order = fewest(scores, share)
            tokens = np.cumsum(self._video.tokens[order]) + self._text_tokens
            best = [self._video.stored[at] for at in order[: int((tokens <= left).sum())]]
            chosen, rows = self._fitting(best, room) if len(best) > most else ((), None)
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
        self._loads = {chosen: self._loads[chosen] for chosen in plans if chosen in self._loads}
        for chosen, rows in plans.items():
            if rows is not None:
                self._loads[chosen] = self._load(chosen, rows)
        return [self._loads[chosen] for chosen in plans]

    def _fitting(
        self, best: list[StoredSample], room: int
    ) -> tuple[tuple[StoredSample, ...], Arranged | None]:
        """As many of the best samples as fit, in order of time; not arranged if there already."""
        count = bisect_right(range(1, len(best) + 1), room, key=lambda n: self._end(best[:n]))
        for fewer in range(count, 0, -1):
            chosen = tuple(sorted(best[:fewer]))
            there = self._loads.get(chosen)
            if there is not None and there.end <= room:
                return chosen, None
            rows = arrange(self._video, chosen, self._family)
            if rows.end <= room:
                return chosen, rows
        return (), None

    def _end(self, chosen: list[StoredSample]) -> int:
        """Positions that samples take, in any order."""
        layout = lay_out(self._video, sorted(chosen), self._family)
        return max(int(layout.positions.max()) + 1, *layout.next_position)

    def _load(self, chosen: tuple[StoredSample, ...], rows: Arranged) -> _Load:
        numbers = torch.from_numpy(rows.number)
        answerer = PrefixAnswerer(
            load(self._video, rows, self._family),
            self._family,
            next_position=rows.next_position,
            name=self._name,
            samples=RowSamples(number=numbers, spans_s=self._video.spans_s(chosen)),
        )
        return _Load(chosen=chosen, tokens=len(rows.positions), end=rows.end, answerer=answerer)
