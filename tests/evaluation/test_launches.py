"""Launches, copies and synchronisations are counted as a GPU would see them."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from batch.evaluation.launches import Launches, count_launches
from batch.kv import Prefix, TieredCache, forward
from tests.kv.decoders import decoder, shape, store, tiered, tokens

X = torch.randn(4, 4)
MASK = X > 0
LINEAR = nn.Linear(4, 4)
ATTENDED = torch.randn(3, 1, 2, 4, 8)

KNOWN: dict[str, tuple[Callable[[], object], tuple[int, int, int]]] = {
    "nothing": (lambda: None, (0, 0, 0)),
    "views": (lambda: X.transpose(0, 1)[1:, None].expand(-1, 3, -1).detach(), (0, 0, 0)),
    "a view that must be copied": (lambda: X.T.reshape(-1), (1, 1, 0)),
    "memory": (lambda: torch.empty(9).new_empty(3), (0, 0, 0)),
    "zeros": (lambda: X.new_zeros(3), (1, 0, 0)),
    "products": (lambda: (X @ X).add_(1), (2, 0, 0)),
    "a linear layer": (lambda: LINEAR(X), (1, 0, 0)),
    "attention": (lambda: scaled_dot_product_attention(*ATTENDED), (1, 0, 0)),
    "another dtype": (lambda: X.to(torch.bfloat16), (1, 1, 0)),
    "the same dtype": (lambda: X.to(torch.float32), (0, 0, 0)),
    "rows into others": (lambda: X[:2].copy_(X[2:].clone()), (2, 2, 0)),
    "rows by number": (lambda: X[torch.ones(2, dtype=torch.long)], (2, 0, 0)),
    "rows by a mask": (lambda: X[MASK], (1, 0, 1)),
    "a mask's places": (lambda: MASK.nonzero(), (1, 0, 1)),
    "a number": (lambda: X[0, 0].item(), (0, 0, 1)),
    "a decision": (lambda: bool(MASK.any()), (1, 0, 1)),
    "a list": (lambda: X.argmax(-1).tolist(), (1, 0, 1)),
    "repeats of unknown length": (lambda: X.repeat_interleave(torch.ones(4).long(), 0), (4, 1, 1)),
    "repeats of known length": (
        lambda: X.repeat_interleave(torch.ones(4).long(), 0, output_size=4),
        (4, 1, 0),
    ),
    "rows put by a mask": (lambda: X.clone().index_put_((MASK,), torch.zeros(1)), (3, 1, 1)),
    "an upload": (lambda: torch.tensor([1, 2], device="cpu"), (1, 1, 1)),
    "two devices": (lambda: torch.empty(2, device="meta").copy_(torch.ones(2)), (2, 1, 1)),
    "two devices, queued": (
        lambda: torch.empty(2, device="meta").copy_(torch.ones(2), non_blocking=True),
        (2, 1, 0),
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", KNOWN)
def test_known_work_counts_as_known(name: str, mode: Callable[[], Callable[..., object]]) -> None:
    work, expected = KNOWN[name]
    assert count_launches(mode()(work)) == expected  # type: ignore[arg-type]


def test_where_the_work_is_on_another_device_what_the_host_does_is_not_counted() -> None:
    there = torch.ones(2, device="meta")

    def work() -> Tensor:
        torch.ones(2).tolist()
        return there + 1

    assert count_launches(work, "meta") == Launches(launches=1, copies=0, synchronisations=0)


def test_what_is_counted_is_what_the_work_returns_without_it() -> None:
    found = []
    count_launches(lambda: found.append(LINEAR(X)))
    torch.testing.assert_close(found[0], LINEAR(X))


def test_a_decode_step_asks_the_same_of_every_layer() -> None:
    model, rows = tiered(decoder("qwen2")), 12
    prefix = Prefix.allocate(shape(4, 4, 4), "cpu")
    store(model, prefix, tokens(rows), torch.arange(rows), (rows,), torch.arange(rows) % 3)
    cache = TieredCache(prefix)

    def step(place: int) -> None:
        forward(model.model, torch.zeros(1, 1, 32), torch.tensor([[place]]), cache)

    step(rows)
    with_three = count_launches(lambda: step(rows + 1))
    assert with_three == count_launches(lambda: step(rows + 2))
    assert with_three.synchronisations == 0
    assert with_three.launches > 3 * 10  # the model's own: norms, products, rotation, attention


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_an_interpreted_kernel_is_one_launch(tmp_path: Path) -> None:
    """In a process of its own, as Triton is interpreted there; its kernels must lie in a file."""
    file = tmp_path / "kernel_file.py"
    file.write_text(
        "import torch, triton\n"
        "from triton import language as tl\n"
        "from batch.evaluation.launches import count_launches\n"
        "@triton.jit\n"
        "def add_one(x, COUNT: tl.constexpr):\n"
        "    at = x + tl.arange(0, COUNT)\n"
        "    tl.store(at, tl.load(at) + 1)\n"
        "x = torch.zeros(8)\n"
        "def work():\n"
        "    add_one[(1,)](x, COUNT=8)\n"
        "    add_one[(1,)](x + 0, COUNT=8)\n"
        "print(count_launches(work), x.sum())\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(file)],
        env={"TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    expected = "Launches(launches=3, copies=0, synchronisations=0) tensor(8.)"
    assert done.stdout.strip() == expected, done.stderr
