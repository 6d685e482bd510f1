"""Greedy decoding of a batch of sequences behind a prefix; on CUDA a step is replayed, not run.

A decode step launches hundreds of kernels, each shorter than the call that launches it. So all
that a step reads and writes lies still, how far it is told by numbers on the device, and from the
second step on a CUDA graph repeats it: no Python between its kernels, and none waits for the host.

Knows token ids, positions and stop tokens; knows nothing of samples and evidence.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from batch.kv import Columns, LastQueries, Observer, Prefix, TieredCache, forward, is_for_kernel
from batch.kv.rotation import LENGTH_DEPENDENT
from batch.models import Family

CHECK_EVERY = 4
"""Steps between two looks for stop tokens, where steps are replayed: a look waits for the device,
and lets it wait in turn. What was chosen behind a stop token is cut."""

_COLUMNS_STEP = 16
"""Questions are padded to a multiple of it where passes are replayed: few shapes come again."""

_CAPACITY_STEP = 64

_log = logging.getLogger(__name__)


class Decoder:
    """Continues sequences behind one prefix; a batch that comes again is not set up again."""

    def __init__(self, prefix: Prefix, family: Family, *, next_position: tuple[int, ...]) -> None:
        """next_position: of a sequence's first token, one number per axis."""
        self._prefix = prefix
        self._family = family
        self._start = torch.tensor(next_position, device=family.device)
        self._batch: _Batch | None = None
        self._talk: _Talk | None = None

    def generate(
        self,
        questions: list[list[int]],
        limits: Sequence[int],
        observer: Observer | None = None,
    ) -> list[list[int]]:
        """Continue each question's token ids greedily up to a stop token, which is included.

        Args:
            limits: most tokens for each question, at least one.
            observer: is shown the queries behind which each token is chosen, and perhaps some
                passes more, if it is a `LastQueries`.
        """
        answers: list[list[int]] = [[] for _ in questions]
        for chosen in self.steps(questions, limits, observer):
            for answer, tokens in zip(answers, chosen, strict=True):
                answer += tokens
        return answers

    @torch.inference_mode()
    def steps(
        self,
        questions: list[list[int]],
        limits: Sequence[int],
        observer: Observer | None = None,
        *,
        may_follow: bool = False,
    ) -> Iterator[list[list[int]]]:
        """As `generate`, but gives what was chosen for each question as soon as it is known.

        may_follow: what a question on its own shares with the one before, as a conversation that
            goes on does, is not computed again, unless steps are replayed.
        """
        batch = self._batch_for(questions, max(limits), observer, may_follow=may_follow)
        answers: list[list[int]] = [[] for _ in questions]
        running = list(range(len(questions)))  # the question of each row of the batch
        read = 0
        for chosen in range(1, max(limits) + 1):
            batch.advance()
            if chosen % batch.check_every and chosen < max(limits):
                continue
            before = [len(answer) for answer in answers]
            for question, tokens in zip(running, batch.tokens(read, chosen), strict=True):
                for token in tokens:
                    if self._goes_on(answers[question], limits[question]):
                        answers[question].append(token)
            read = chosen
            if self._talk is not None:  # a question on its own: all but the last token were seen
                self._talk.ids = [*questions[0], *answers[0][:-1]]
            yield [answer[start:] for answer, start in zip(answers, before, strict=True)]
            rows = [
                row
                for row, question in enumerate(running)
                if self._goes_on(answers[question], limits[question])
            ]
            if not rows:
                break
            if len(rows) < len(running) and batch.can_shrink:
                batch.keep(rows)
                running = [running[row] for row in rows]

    def padded(
        self, sequences: Sequence[list[int]], columns: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids [batch, columns], padded at the left, where they stand, and each's padding.

        The padding stays on the CPU. columns: None = as many as the longest has tokens.
        """
        columns = columns or max(map(len, sequences))
        padding = torch.tensor([columns - len(ids) for ids in sequences])
        rows = torch.tensor([[0] * (columns - len(ids)) + ids for ids in sequences])
        place = (torch.arange(columns) - padding[:, None]).clamp(min=0)
        return rows.to(self._family.device), place.to(self._family.device), padding

    def hidden(
        self,
        step: Tensor,
        place: Tensor,
        cache: TieredCache,
        padding: Tensor | None,
        columns: Columns | None = None,
    ) -> Tensor:
        """Last hidden states [batch, new, hidden] of token ids `step` at `place` behind it."""
        embedded = self._family.text_embeddings(step.flatten()).view(*step.shape, -1)
        positions = self._start[:, None, None] + place[None]
        positions = positions[0] if len(positions) == 1 else positions
        return forward(
            self._family.language_model, embedded, positions, cache, padding, columns=columns
        )

    def scores(self, hidden: Tensor) -> Tensor:
        """Of the next token behind the last column, [batch, vocabulary]."""
        return self._family.logits(hidden[:, -1])

    def is_for_kernel(self, tokens: int) -> bool:
        """Whether a pass of so many tokens is for Triton's kernel."""
        model = self._family.language_model
        return is_for_kernel(model, tokens, model.dtype, self._family.device)

    def _goes_on(self, answer: list[int], limit: int) -> bool:
        return not answer or (len(answer) < limit and answer[-1] not in self._family.stop_ids)

    def _batch_for(
        self,
        questions: list[list[int]],
        most: int,
        observer: Observer | None,
        *,
        may_follow: bool,
    ) -> "_Batch":
        replays = self._can_replay(len(questions), observer)
        if may_follow and not replays and len(questions) == 1:
            return self._follow(questions[0], most, observer)
        self._talk = None
        columns = _rounded_up(max(map(len, questions)), _COLUMNS_STEP if replays else 1)
        capacity = _rounded_up(columns + most, _CAPACITY_STEP)
        batch = self._batch
        if batch is None or not batch.serves(len(questions), capacity, most, observer):
            cache = TieredCache(self._prefix, observer, capacity=capacity)
            batch = _Batch(self, cache, len(questions), capacity, most, replays=replays)
        self._batch = batch if replays else None
        batch.begin(*self.padded(questions, columns))
        return batch

    def _follow(self, question: list[int], most: int, observer: Observer | None) -> "_Batch":
        """A batch of one, whose suffix holds already what it shares with the one before."""
        talk = self._talk or _Talk(TieredCache(self._prefix), [])
        talk.cache.observer = observer
        pairs = zip(talk.ids, question[:-1], strict=False)  # the last token is always passed
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        talk.ids = question[:shared]  # should what follows be interrupted
        batch = _Batch(self, talk.cache, 1, 0, most, replays=False)
        batch.begin(*self.padded([question]), shared)
        self._talk = talk
        return batch

    def _can_replay(self, sequences: int, observer: Observer | None) -> bool:
        """Whether a CUDA graph can hold a step: one device, nothing that waits for the host."""
        rope = getattr(self._family.language_model.config, "rope_parameters", None) or {}
        return (
            _replays_on(self._family.device)
            and len({*self._family.layer_devices, self._family.device}) == 1
            and rope.get("rope_type") not in LENGTH_DEPENDENT
            and (observer is None or isinstance(observer, LastQueries))
            and self.is_for_kernel(sequences)
        )


@dataclass
class _Talk:
    """A conversation: the suffix of its tokens so far."""

    cache: TieredCache
    ids: list[int]


class _Batch:
    """Sequences that are decoded together: their tokens, and how far they are, on the device."""

    def __init__(
        self,
        decoder: Decoder,
        cache: TieredCache,
        sequences: int,
        capacity: int,
        most: int,
        *,
        replays: bool,
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._shape = sequences, capacity, most
        self._replays = replays
        self._passes: dict[int, _Pass] = {}
        self._questions: dict[int, tuple[Tensor, Tensor]] = {}
        self._output = torch.empty(0)

    @property
    def check_every(self) -> int:
        return CHECK_EVERY if self._replays else 1

    @property
    def can_shrink(self) -> bool:
        return not self._replays

    def serves(self, sequences: int, capacity: int, most: int, observer: Observer | None) -> bool:
        same = self._shape == (sequences, capacity, most)
        return self._replays and same and self._cache.observer is observer

    def begin(self, ids: Tensor, place: Tensor, padding: Tensor, shared: int = 0) -> None:
        """Take questions as of `Decoder.padded`; what a graph may hold stays where it is.

        shared: columns that the suffix has already.
        """
        ids, place = ids[:, shared:], place[:, shared:]
        if not len(self._output):
            sequences, _, most = self._shape
            device = ids.device
            self._output = torch.zeros(sequences, most, dtype=torch.int64, device=device)
            self._step = torch.zeros(sequences, 1, dtype=torch.int64, device=device)
            self._place = torch.zeros_like(self._step)
            self._padding = torch.zeros(sequences, dtype=torch.int32, device=device)
            self._past = torch.zeros(1, dtype=torch.int64, device=device)
            self._chosen = torch.zeros(1, dtype=torch.int64, device=device)
        new = ids.shape[1]
        if new in self._questions:
            for held, given in zip(self._questions[new], (ids, place), strict=True):
                held.copy_(given)
        else:
            self._questions[new] = ids, place
        self._padding.copy_(padding)
        self._past.zero_()
        self._chosen.zero_()
        self._padding_here = padding
        self._new = new
        self._is_asked = False
        self._cache.shorten(shared)
        if isinstance(self._cache.observer, LastQueries):
            self._cache.observer.begin()

    def advance(self) -> None:
        """Choose the next token of each sequence."""
        new = 1 if self._is_asked else self._new
        ids, place = (self._step, self._place) if self._is_asked else self._questions[new]
        by_kernel = self._replays and self._decoder.is_for_kernel(ids.numel())
        key = 0 if self._is_asked else new
        if key not in self._passes:
            self._passes[key] = _Pass(ids.device if by_kernel else None)
        self._passes[key](lambda: self._run(ids, place, by_kernel=by_kernel))
        if by_kernel:
            self._cache.advance(new)
        self._is_asked = True

    def tokens(self, start: int, stop: int) -> list[list[int]]:
        """Those that were chosen from one to another, of each sequence; waits for the device."""
        found: list[list[int]] = self._output[:, start:stop].tolist()
        return found

    def keep(self, rows: list[int]) -> None:
        """Go on with these sequences alone."""
        going_on = torch.tensor(rows)
        self._padding_here = self._padding_here[going_on]
        going_on = going_on.to(self._step.device)
        self._output, self._step = self._output[going_on], self._step[going_on]
        self._place, self._padding = self._place[going_on], self._padding[going_on]
        self._cache.keep(going_on)

    def _run(self, ids: Tensor, place: Tensor, *, by_kernel: bool) -> None:
        """A pass, all of it on the device if it is for the kernel."""
        new, columns = ids.shape[1], None
        if by_kernel:
            columns = Columns(self._past + torch.arange(new, device=ids.device), self._padding)
        hidden = self._decoder.hidden(ids, place, self._cache, self._padding_here, columns)
        chosen = self._decoder.scores(hidden).argmax(-1)[:, None]
        self._output.index_copy_(1, self._chosen, chosen)
        self._step.copy_(chosen)
        self._place.copy_(place[:, -1:] + 1)
        self._past += new
        self._chosen += 1


class _Pass:
    """Work on tensors that lie still: run as it is the first time, then captured and replayed.

    The first run compiles, and waits for what arrives from a file; a graph could hold neither.
    """

    def __init__(self, device: torch.device | None) -> None:
        """device: where all of it is, and can be captured; None: it cannot."""
        self._device = device
        self._replay: Callable[[], None] | None = None
        self._is_warm = False

    def __call__(self, work: Callable[[], None]) -> None:
        if self._is_warm and self._replay is None and self._device is not None:
            self._replay = capture(work, self._device)
        (self._replay or work)()
        self._is_warm = True


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What repeats the work as a CUDA graph; the work itself, if a graph cannot hold it."""
    try:
        graph = torch.cuda.CUDAGraph()
        own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch 2.13
        # Around it once more: torch 2.13 does not leave the stream of a capture that fails. Other
        # threads may go on with what a capture would forbid them.
        with (
            torch.cuda.device(device),
            torch.cuda.stream(own),
            torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"),
        ):
            work()
    except RuntimeError as error:  # such as a model that asks the device for a number
        _log.warning("decode steps are not replayed: %s", error)
        return work
    return graph.replay


def _replays_on(device: torch.device) -> bool:
    return device.type == "cuda"


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
