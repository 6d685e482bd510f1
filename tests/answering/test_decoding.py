"""Steps that are replayed choose the tokens that steps which are run choose; here without a GPU.

A stand-in for a CUDA graph records the operations of a pass and repeats them on the same tensors;
one for Triton's kernel computes the same in torch, from the same arguments.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from batch.answering import decoding
from batch.answering.decoding import Decoder
from batch.kv import ATTENTIONS, LastQueries, Prefix, attention, merge, tiered_attention
from batch.kv.attention import attend, attend_own, fold, unfold
from batch.kv.rotation import LENGTH_DEPENDENT
from batch.models import Family
from cachefmt.tiers import Tier
from tests.kv.decoders import decoder, shape, store, tiered, tokens

ROWS = 24
QUESTIONS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3, 5, 8], [7]]


class TinyFamily:
    """What decoding asks of a family."""

    def __init__(self, device: str = "cpu") -> None:
        self.model = tiered(decoder("qwen2")).to(device)
        self.language_model = self.model.model
        self.device = torch.device(device)
        self.layer_devices = [self.device] * 3
        self.stop_ids: frozenset[int] = frozenset()

    def text_embeddings(self, ids: Tensor) -> Tensor:
        found: Tensor = self.language_model.embed_tokens(ids)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    def prefix(self) -> Prefix:
        prefix = Prefix.allocate(shape(ROWS // 2, ROWS // 4, ROWS // 4), self.device)
        tiers = torch.tensor([Tier.FP16, Tier.FP16, Tier.INT8, Tier.INT4]).repeat(ROWS // 4)
        ids, places = tokens(ROWS).to(self.device), torch.arange(ROWS).to(self.device)
        store(self.model, prefix, ids, places, [ROWS], tiers.to(self.device))
        return prefix

    def decoder(self, prefix: Prefix) -> Decoder:
        return Decoder(prefix, cast(Family, self), next_position=(ROWS,))


class Suffix(NamedTuple):
    key: Tensor
    value: Tensor
    columns: Tensor
    padding: Tensor


def attend_few(
    query: Tensor, rows: Any, suffix: Suffix, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """As the kernel, by masks over the whole capacity: nothing is asked of the device."""
    batch, _, new, _ = query.shape
    kv_heads, capacity = suffix.key.shape[1:3]
    column = torch.arange(capacity)
    hidden = (column > suffix.columns[:, None]) | (column < suffix.padding[:, None, None])
    bias = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None]
    # What was never written may be anything; 0 * NaN is NaN.
    value = suffix.value.masked_fill((column > suffix.columns[-1])[:, None], 0)
    key = suffix.key.masked_fill((column > suffix.columns[-1])[:, None], 0)
    own = attend_own(query, key, value, bias, scaling=scaling)
    shared = attend(fold(query, kv_heads), rows, scaling=scaling)
    output, lse = merge([tuple(unfold(one, batch, new) for one in shared), own])
    return output.to(query.dtype).transpose(1, 2), lse


class Recorded(TorchDispatchMode):
    """Runs some work, and repeats its operations on the tensors that they had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.is_done = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert torch.Tag.data_dependent_output not in func.tags, f"{func} waits for the device"
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        if not self.is_done:  # a graph runs nothing while it is captured, this did
            self.is_done = True
            return
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                old.copy_(new)


def _tensors(result: Any) -> list[Tensor]:
    results = result if isinstance(result, list | tuple) else [result]
    return [one for one in results if isinstance(one, Tensor)]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """What was captured; with it the CPU counts as a device that can capture."""
    found: list[Recorded] = []

    def capture(work: Any, device: torch.device) -> Any:
        recorded = Recorded()
        with recorded:
            work()
        found.append(recorded)
        return recorded.replay

    kernels = SimpleNamespace(
        prepare=lambda rows, **_: [part for part in rows if len(part)],
        attend_few=attend_few,
        Suffix=Suffix,
    )
    monkeypatch.setattr(decoding, "capture", capture)
    monkeypatch.setattr(decoding, "_replays_on", lambda device: True)
    monkeypatch.setattr(tiered_attention, "_kernels", lambda: kernels)
    return found


def run_step_by_step(family: TinyFamily, prefix: Prefix, limits: list[int]) -> list[list[int]]:
    return family.decoder(prefix).generate(QUESTIONS, limits)


@pytest.fixture
def family() -> TinyFamily:
    return TinyFamily()


def with_a_stop_token(family: TinyFamily, prefix: Prefix, limits: list[int]) -> list[list[int]]:
    """Let one of the tokens end answers, some of them early; what is expected then."""
    free = run_step_by_step(family, prefix, limits)
    ends = {
        token: {[*answer, token].index(token) for answer in free}
        for token in {one for answer in free for one in answer}
    }
    family.stop_ids = frozenset([max(ends, key=lambda token: len(ends[token]))])
    expected = run_step_by_step(family, prefix, limits)
    assert len({len(answer) for answer in expected}) > 1
    return expected


def test_replayed_steps_choose_what_steps_that_are_run_choose(
    family: TinyFamily, captures: list[Recorded]
) -> None:
    prefix, limits = family.prefix(), [9, 10, 11, 3]
    expected = with_a_stop_token(family, prefix, limits)
    family.language_model.set_attn_implementation(ATTENTIONS["triton"])
    own = family.decoder(prefix)
    got = [own.generate(QUESTIONS, limits) for _ in range(4)]
    assert got == [expected] * 4
    assert len(captures) == 2  # a step, and from the second time the questions
    other = own.generate(QUESTIONS[::-1], limits[::-1])
    assert other[::-1] == expected
    assert len(captures) == 2
    assert own.generate(QUESTIONS[:1], limits[:1]) == expected[:1]


def test_a_look_for_stop_tokens_comes_every_few_steps_and_the_rest_is_cut(
    family: TinyFamily, captures: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, limits = family.prefix(), [12] * 4
    expected = with_a_stop_token(family, prefix, limits)
    family.language_model.set_attn_implementation(ATTENTIONS["triton"])
    for every in (1, 3, 5, 100):
        monkeypatch.setattr(decoding, "CHECK_EVERY", every)
        looks: list[int] = []

        class Looked(decoding._Batch):
            def tokens(self, start: int, stop: int, looks: list[int] = looks) -> list[list[int]]:
                looks.append(stop)
                return super().tokens(start, stop)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "_Batch", Looked)
            assert family.decoder(prefix).generate(QUESTIONS, limits) == expected
        last = min(-(-max(map(len, expected)) // every) * every, 12)
        assert looks == [*range(every, last, every), last]


def test_the_attention_of_answers_is_the_same_when_steps_are_replayed(
    family: TinyFamily, captures: list[Recorded]
) -> None:
    prefix, limits = family.prefix(), [9, 10, 11, 3]
    expected = with_a_stop_token(family, prefix, limits)
    group = torch.arange(ROWS) % 5 - 1
    run = LastQueries(len(QUESTIONS), 11)
    assert family.decoder(prefix).generate(QUESTIONS, limits, run) == expected
    lengths = list(map(len, expected))
    family.language_model.set_attn_implementation(ATTENTIONS["triton"])
    own, replayed = family.decoder(prefix), LastQueries(len(QUESTIONS), 11)
    for _ in range(4):
        assert own.generate(QUESTIONS, limits, replayed) == expected
        torch.testing.assert_close(
            replayed.paid(prefix, lengths, group, 4), run.paid(prefix, lengths, group, 4)
        )
    assert len(captures) == 2


def test_the_attention_of_many_tokens_is_summed_a_few_rows_at_a_time(
    family: TinyFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, group = family.prefix(), torch.arange(ROWS) % 5 - 1
    observer = LastQueries(len(QUESTIONS), 6)
    lengths = list(map(len, family.decoder(prefix).generate(QUESTIONS, [6] * 4, observer)))
    expected = observer.paid(prefix, lengths, group, 4)
    heads = family.language_model.config.num_attention_heads
    most = 9 * heads * sum(lengths)  # nine rows
    monkeypatch.setattr(attention, "CHUNK_NUMBERS", most)
    with Largest() as allocated:
        found = observer.paid(prefix, lengths, group, 4)
    torch.testing.assert_close(found, expected)
    assert allocated.numbers <= most


class Largest(TorchDispatchMode):
    """Tells of the most numbers that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(one.numel() for one in _tensors(result))])
        return result


class Shown:
    """An observer that a graph cannot hold."""

    def __init__(self) -> None:
        self.columns: list[int] = []

    def add(self, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        self.columns += [query.shape[2]] if layer == 0 else []

    def keep(self, sequences: Tensor) -> None:
        pass


def test_what_a_graph_cannot_hold_is_run_step_by_step(
    family: TinyFamily, captures: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = family.prefix()
    expected = run_step_by_step(family, prefix, [6] * 4)
    family.language_model.set_attn_implementation(ATTENTIONS["triton"])
    shown = Shown()
    assert family.decoder(prefix).generate(QUESTIONS, [6] * 4, shown) == expected
    assert shown.columns == [7, 1, 1, 1, 1, 1]
    monkeypatch.setattr(family, "layer_devices", [family.device, torch.device("meta")])
    assert run_step_by_step(family, prefix, [6] * 4) == expected
    assert captures == []


@pytest.mark.parametrize("kind", LENGTH_DEPENDENT)
def test_rotations_that_look_at_all_positions_are_run_step_by_step(
    family: TinyFamily, captures: list[Recorded], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    prefix, config = family.prefix(), family.language_model.config
    monkeypatch.setitem(config.rope_parameters, "rope_type", kind)
    family.language_model.set_attn_implementation(ATTENTIONS["triton"])
    run_step_by_step(family, prefix, [6] * 4)
    assert captures == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a capture does not fail")
def test_a_capture_that_fails_leaves_the_work_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def work() -> None:
        done.append(1)

    assert decoding.capture(work, torch.device("cuda")) is work
    assert "decode steps are not replayed" in caplog.text


def test_a_capture_that_fails_goes_back_to_the_stream_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = ["before"]

    @contextmanager
    def stream(own: str) -> Iterator[None]:
        before, streams[0] = streams[0], own
        try:
            yield
        finally:
            streams[0] = before

    class Graph:
        """As torch's: it goes back only from a capture that ends well."""

        def __init__(self, graph: object, *, stream: str, capture_error_mode: str) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            streams[0] = self.stream

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"own of {device}")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    during: list[str] = []
    decoding.capture(lambda: during.extend(streams), torch.device("cuda:1"))
    assert during == ["own of cuda:1"]
    assert streams == ["before"]


@pytest.mark.needs_gpu
def test_on_cuda_replayed_steps_choose_what_steps_that_are_run_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = TinyFamily("cuda")
    prefix, limits = family.prefix(), [9, 10, 11, 3]
    monkeypatch.setattr(decoding, "_replays_on", lambda device: False)
    expected = with_a_stop_token(family, prefix, limits)
    run = LastQueries(len(QUESTIONS), 11)
    family.decoder(prefix).generate(QUESTIONS, limits, run)
    monkeypatch.undo()
    own, replayed = family.decoder(prefix), LastQueries(len(QUESTIONS), 11)
    lengths, group = list(map(len, expected)), torch.arange(ROWS) % 5 - 1
    for _ in range(4):
        assert own.generate(QUESTIONS, limits, replayed) == expected
        torch.testing.assert_close(
            replayed.paid(prefix, lengths, group, 4),
            run.paid(prefix, lengths, group, 4),
            atol=1e-4,
            rtol=1e-3,
        )
