"""Layers on their way to a device: all rows arrive, none is used or overwritten too early."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from batch.kv import Prefix
from batch.kv.prefix import ArrivingLayers
from cachefmt import CacheFile
from tests.cachefmt.files import write_file

LAYERS = 5


class Stream:
    """Stands for a stream of a machine without CUDA, where copies are done at once."""

    def __init__(self, device=None):
        self.waited = []

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        self.waited.append(event)


class Event:
    def __init__(self):
        self.is_recorded = self.is_synchronized = False

    def record(self, stream):
        self.is_recorded = True

    def synchronize(self):
        self.is_synchronized = True


@pytest.fixture
def current(monkeypatch):
    """The stream of the computation; everything of CUDA is a stand-in."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda other: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return stream


def layers():
    """Tensors of odd sizes and several types, and as many that are not filled."""
    sources = [
        [
            torch.randn(3 + layer, 2, 5).half(),
            torch.randint(0, 255, (7, layer), dtype=torch.uint8),
            torch.randn(3, 1),
        ]
        for layer in range(LAYERS)
    ]
    return sources, [[torch.zeros_like(rows) for rows in layer] for layer in sources]


def test_every_layer_has_arrived_when_it_is_used(current):
    sources, targets = layers()
    arriving = ArrivingLayers(sources, targets)
    for layer in range(LAYERS):
        arriving.wait(layer)
        assert all(map(torch.equal, targets[layer], sources[layer]))
        assert len(current.waited) == layer + 1
        assert current.waited[-1].is_recorded


def test_only_the_next_layer_is_copied_ahead(current):
    sources, targets = layers()
    ArrivingLayers(sources, targets).wait(0)
    arrived = [bool(layer[0].any()) for layer in targets]
    assert arrived == [True, True, False, False, False]


def test_a_buffer_is_used_again_only_when_its_layer_has_arrived(current):
    arriving = ArrivingLayers(*layers())
    arriving.wait(0)
    arriving.wait(1)
    assert current.waited[0].is_synchronized  # the third layer went through the first's buffer
    assert not current.waited[1].is_synchronized


def test_layers_of_one_device_share_a_stream_and_no_other_waits_for_it(monkeypatch, current):
    own = {"meta": Stream(), "cpu": current}
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: own[device.type])
    sources, targets = layers()
    targets[3:] = [[rows.to("meta") for rows in layer] for layer in targets[3:]]
    arriving = ArrivingLayers(sources, targets)
    for layer in range(LAYERS):
        arriving.wait(layer)
    assert [len(own[device].waited) for device in ("cpu", "meta")] == [3, 2]


@pytest.mark.needs_gpu
def test_a_file_on_cuda_holds_what_it_holds_on_the_cpu(tmp_path: Path):
    path = write_file(tmp_path / "x.safetensors")
    with CacheFile.open(path) as cache:
        here, there = Prefix.load(cache, "cpu"), Prefix.load(cache, "cuda")
    for layer in range(here.shape.layers):
        for one, other in zip(here.layer(layer), there.layer(layer), strict=True):
            for kind in ("key", "value"):
                for rows, copy in zip(getattr(one, kind), getattr(other, kind), strict=True):
                    assert torch.equal(rows, copy.cpu())
