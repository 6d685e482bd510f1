"""Work behind the computation is done in order, whole or with its error; nothing runs on after."""

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from batch.making import write_behind
from batch.making.write_behind import WriteBehind
from cachefmt import CacheFileError


def test_work_is_done_in_order_by_another_thread() -> None:
    done: list[int] = []
    threads: set[int] = set()

    def keep(tensors: list[torch.Tensor]) -> None:
        done.append(int(tensors[0]))
        threads.add(threading.get_ident())

    with WriteBehind() as behind:
        for number in range(50):
            behind.put([torch.tensor(number)], keep)
        behind.finish()
        assert done == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_no_more_waits_than_may() -> None:
    may_go, tries = threading.Event(), 3 * write_behind._WAITING
    begun = 0

    def put_all(behind: WriteBehind) -> None:
        nonlocal begun
        for _ in range(tries):
            behind.put([], lambda tensors: may_go.wait(10))  # type: ignore[arg-type]
            begun += 1

    with WriteBehind() as behind:
        putting = threading.Thread(target=put_all, args=(behind,))
        putting.start()
        until = time.monotonic() + 10
        while begun < write_behind._WAITING and time.monotonic() < until:
            time.sleep(0.01)
        putting.join(0.3)  # more would begin at once
        assert begun == write_behind._WAITING
        may_go.set()
        putting.join(10)
        behind.finish()
    assert begun == tries


def fail(tensors: list[torch.Tensor]) -> None:
    raise CacheFileError(Path("x"), "no room")


def put_and_finish(times: int, *, finish: bool) -> None:
    with WriteBehind() as behind:
        for _ in range(times):
            behind.put([], fail)
        if finish:
            behind.finish()


def test_an_error_of_the_work_comes_with_what_follows() -> None:
    with pytest.raises(CacheFileError, match="no room"):
        put_and_finish(1, finish=True)
    with pytest.raises(CacheFileError, match="no room"):
        put_and_finish(write_behind._WAITING + 1, finish=False)


def test_what_was_not_begun_is_dropped_on_the_way_out() -> None:
    begun, may_go, done = threading.Event(), threading.Event(), []

    def first(tensors: list[torch.Tensor]) -> None:
        begun.set()
        may_go.wait(10)
        done.append("first")

    def be_interrupted() -> None:
        with WriteBehind() as behind:
            behind.put([], first)
            behind.put([], lambda tensors: done.append("second"))
            assert begun.wait(10)
            threading.Timer(0.1, may_go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert done == ["first"]


class Stream:
    """Stands for a stream of a machine without CUDA."""

    def __init__(self, device: object = None) -> None:
        self.waited: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.waited.append(other)


class Event:
    def __init__(self) -> None:
        self.recorded: object = None
        self.is_synchronized = False

    def record(self, stream: object) -> None:
        self.recorded = stream

    def synchronize(self) -> None:
        self.is_synchronized = True


def test_tensors_leave_a_device_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    computing, held = Stream(), []
    events: list[Event] = []

    def new_event() -> Event:
        events.append(Event())
        return events[-1]

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", new_event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory, dtype: empty(*shape, dtype=dtype)
    )
    tensor: Any = torch.arange(6).view(2, 3)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: held.append(stream))
    found = []
    with WriteBehind() as behind:
        for _ in range(2):
            behind.put([tensor], lambda tensors: found.append(tensors[0].clone()))
        behind.finish()
    assert [one.tolist() for one in found] == 2 * [[[0, 1, 2], [3, 4, 5]]]
    (stream,) = set(held)
    assert isinstance(stream, Stream)
    assert stream.waited == [computing, computing]
    assert all(event.is_synchronized and event.recorded is stream for event in events)
