"""What a piece of work asks of a GPU, counted wherever it runs: launches, copies, synchronisations.

A step that waits for Python pays for these before it pays for bytes or products. Run on the CPU,
the same code is counted as if its tensors lay on a GPU; on a GPU only what touches one counts.

Knows torch's dispatcher (2.13) and how Triton (3.7 to 3.9) launches; nothing of models.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_MEMORY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_FREE = frozenset({*_MEMORY, "_unsafe_view", "_local_scalar_dense"})
"""Operations that launch nothing, beside views: memory, metadata, a number for the host."""

_COPIES = frozenset({"_to_copy", "copy_", "clone"})

_WAITED_FOR = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""torch's tags of operations whose result, or its shape, the host waits for."""

_INDEXES = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
"""Those that wait if they are given a mask: its nonzero places are counted first."""


class Launches(NamedTuple):
    """What was counted; see `count_launches`."""

    launches: int
    """Operations of torch that start a kernel or a copy, launches of Triton, replays of a graph."""
    copies: int
    """Those of them that compute nothing: to another dtype, device or place."""
    synchronisations: int
    """Times that the host waits until the device is done."""


def count_launches(work: Callable[[], object], device: torch.device | str = "cpu") -> Launches:
    """Run a piece of work and count what it asks of a GPU; `device` is where it computes.

    An operation counts once, also where torch starts several kernels for it; attention by
    `scaled_dot_product_attention` is one. A Triton kernel counts as it is launched, compiled or
    interpreted, and not by what the interpreter does. On the CPU a tensor may stand for one of the
    host or of the device, so there counts what could be: `tolist` and `cpu` as a synchronisation,
    `torch.tensor(..., device=...)` as a copy that is waited for. Not seen: `to(device)` where it
    changes nothing, and waits for streams and events. Not for two threads at once.
    """
    counter = _Counter(torch.device(device).type)
    with ExitStack() as counting:
        for launches in _other_launches(counter):
            counting.enter_context(launches)
        with _Functions(counter), _Operations(counter):
            work()
    return Launches(counter.launches, counter.copies, counter.synchronisations)


class _Counter:
    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.launches = self.copies = self.synchronisations = 0
        self.is_paused = False

    @contextmanager
    def one_launch(self) -> Iterator[None]:
        """Count one, whatever goes on inside."""
        inside, self.is_paused = self.is_paused, True
        self.launches += not inside
        try:
            yield
        finally:
            self.is_paused = inside

    def add(self, name: str, tensors: Sequence[Tensor], *, waits: bool) -> None:
        """Count an operation on these tensors, its arguments' and its results'."""
        if self.is_paused or not any(one.device.type == self.device_type for one in tensors):
            return
        self.launches += name not in _FREE
        self.copies += name in _COPIES
        self.synchronisations += waits


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch 2.13
    """Sees every operation below autograd."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch 2.13
        self._counter = counter

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch 2.13 else imports its compiler, which takes seconds, to keep it away from here.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode what is made of other operations comes whole.
        with self:
            made_of = func.decompose(*args, **kwargs)
        if made_of is not NotImplemented:
            return made_of
        result = func(*args, **kwargs)
        if not func.is_view and torch.Tag.inplace_view not in func.tags:
            tensors = list(_tensors((args, tuple(kwargs.values()), result)))
            waits = _waits(func, args, kwargs, tensors)
            self._counter.add(func.overloadpacket.__name__, tensors, waits=waits)
        return result


class _Functions(TorchFunctionMode):
    """Sees calls of torch, among them those that no operation tells of on the CPU."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        counter = self._counter
        if func is torch.nn.functional.scaled_dot_product_attention:
            with counter.one_launch():
                return func(*args, **kwargs)
        if counter.device_type == "cpu" and not counter.is_paused:
            is_upload = func is torch.tensor and kwargs.get("device") is not None
            counter.launches += is_upload
            counter.copies += is_upload
            counter.synchronisations += is_upload or func in (Tensor.tolist, Tensor.cpu)
        return func(*args, **kwargs)


def _other_launches(counter: _Counter) -> Iterator[AbstractContextManager[object]]:
    """Patches that count launches which pass torch's dispatcher by."""

    def counted(launch: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with counter.one_launch():
                return launch(*args, **kwargs)

        return run

    yield patch.object(torch.cuda.CUDAGraph, "replay", counted(torch.cuda.CUDAGraph.replay))
    if "triton" in sys.modules:  # as a callable, so that its interpreter is chosen first
        from triton.runtime.jit import KernelInterface

        choose_grid = KernelInterface.__getitem__
        yield patch.object(
            KernelInterface, "__getitem__", lambda kernel, grid: counted(choose_grid(kernel, grid))
        )


def _waits(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]
) -> bool:
    """Whether the host waits for an operation on these tensors."""
    name = func.overloadpacket.__name__
    if name in _INDEXES:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    if name in _COPIES:
        # copy_(self, source, non_blocking)
        is_queued = kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
        return len({tensor.device for tensor in tensors}) > 1 and not is_queued
    return kwargs.get("output_size") is None and not _WAITED_FOR.isdisjoint(func.tags)


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
