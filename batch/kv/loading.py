"""Rows of a file on their way to a CUDA device, layer after layer.

Written for CUDA; it has not been run on a GPU yet, only with stand-ins for streams.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16


class ArrivingLayers:
    """Copies layers to their device on a stream of its own, one layer ahead of the computation.

    Kernels are queued long before they run, so the processor is free to copy layer i + 1 from the
    mapped file into pinned memory while the device computes layer i. Two pinned buffers of one
    layer each are used in turn.
    """

    def __init__(
        self, sources: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        """Nothing is copied yet.

        Args:
            sources: tensors of each layer on the CPU, by name.
            targets: tensors of the same names, dtypes and shapes, those of a layer on one CUDA
                device.
        """
        self._sources = [dict(layer) for layer in sources]
        self._targets = targets
        self._devices = [next(iter(layer.values())).device for layer in targets]
        size = max(sum(_padded(rows.nbytes) for rows in layer.values()) for layer in sources)
        self._buffers = [torch.empty(size, dtype=torch.uint8).pin_memory() for _ in range(2)]
        self._streams = {device: torch.cuda.Stream(device) for device in set(self._devices)}  # type: ignore[no-untyped-call]  # torch 2.13
        for device, stream in self._streams.items():
            # The memory of the targets may still be in use by kernels queued before it was freed.
            stream.wait_stream(torch.cuda.current_stream(device))
        self._arrived: list[torch.cuda.Event] = []

    def wait(self, layer: int) -> None:
        """Let what is queued from now on begin only when a layer has arrived."""
        while len(self._arrived) < min(layer + 2, len(self._sources)):
            self._start(len(self._arrived))
        torch.cuda.current_stream(self._devices[layer]).wait_event(self._arrived[layer])

    def _start(self, layer: int) -> None:
        if layer >= len(self._buffers):
            self._arrived[layer - len(self._buffers)].synchronize()  # its buffer is free again
        buffer, start = self._buffers[layer % len(self._buffers)], 0
        stream = self._streams[self._devices[layer]]
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch 2.13
        with torch.cuda.stream(stream):
            for name, rows in self._sources[layer].items():
                staged = buffer[start : start + rows.nbytes].view(rows.dtype).view(rows.shape)
                staged.copy_(rows)
                self._targets[layer][name].copy_(staged, non_blocking=True)
                start += _padded(rows.nbytes)
            arrived.record(stream)
        self._arrived.append(arrived)
        self._sources[layer].clear()  # the last one lets go of the mapped file


def by_layer(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The `layers.*` tensors of each layer, by name; the layers in order."""
    layers: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, rows in tensors.items():
        layers[int(name.split(".")[1])][name] = rows
    return [layers[layer] for layer in sorted(layers)]


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
