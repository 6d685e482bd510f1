"""Tensors on their way from the device to what writes them, behind the computation.

Knows streams, pinned memory and threads; knows no models and no files.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch
from torch import Tensor

_WAITING = 8
"""Most pieces of work that wait: on CUDA each holds pinned memory."""

Work = Callable[[list[Tensor]], None]
"""Is given tensors on the CPU."""


class WriteBehind:
    """Context manager with a thread that does one piece of work after the other, in order.

    An error of the work is raised by a later `put`, or by `finish`. Leaving without `finish` drops
    what was not begun.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write-behind")
        self._waiting: deque[Future[None]] = deque()
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def put(self, tensors: Sequence[Tensor], work: Work) -> None:
        """Let the work be done with these tensors, which must not change before.

        From CUDA they are copied on a stream of their own, once the computation that makes them
        is done; nothing here waits for it. Waits while too much work does.
        """
        while self._waiting and (len(self._waiting) >= _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        host, arrived = [], []
        for tensor in tensors:
            if tensor.is_cuda:
                copied, event = self._to_pinned(tensor)
                host.append(copied)
                arrived.append(event)
            else:
                host.append(tensor)
        self._waiting.append(self._pool.submit(_do, work, host, arrived))

    def finish(self) -> None:
        """Wait until all is done."""
        while self._waiting:
            self._waiting.popleft().result()

    def _to_pinned(self, tensor: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        device = tensor.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch 2.13
        stream = self._streams[device]
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch 2.13
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            pinned.copy_(tensor, non_blocking=True)
            arrived.record(stream)
        tensor.record_stream(stream)  # its memory is not given away before it is copied
        return pinned, arrived


@torch.inference_mode()
def _do(work: Work, host: list[Tensor], arrived: list[torch.cuda.Event]) -> None:
    for event in arrived:
        event.synchronize()
    work(host)
