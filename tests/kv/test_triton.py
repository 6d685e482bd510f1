"""The Triton kernels: interpreted here, compiled for CUDA without a GPU, and run on one."""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from batch.errors import ModelError
from batch.kv import ATTENTIONS, check_kernel, is_for_kernel, tiered_attention

ROOT = Path(__file__).parent.parent.parent
CASES = "tests/kv/triton_cases.py"
DECODING = "tests/kv/triton_decoding_cases.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs Triton: pip install 'triton>=3.7,<4'",
)


def run(*arguments: str, **environment: str) -> None:
    """Run Python in a process of its own: Triton is interpreted or compiled, never both in one."""
    inherited = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


INTERPRETED = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


@needs_triton
def test_interpreted_kernels_equal_the_torch_path():
    """Attention in one case of each kind, those marked long are all; and decoding."""
    run("-m", "pytest", "-q", CASES, DECODING, **INTERPRETED)


@pytest.mark.long
@needs_triton
def test_interpreted_kernels_equal_the_torch_path_in_every_case():
    run("-m", "pytest", "-q", "-m", "long", CASES, **INTERPRETED)


@pytest.mark.needs_gpu
@needs_triton
def test_kernels_on_cuda_equal_the_torch_path():
    run("-m", "pytest", "-q", "-m", "long or not long", CASES, DECODING, FAIL_WITHOUT_GPU="1")


@needs_triton
def test_kernels_compile_for_cuda_without_spills_and_with_wide_loads(tmp_path):
    """The interpreter knows no types, layouts or limits."""
    run("-m", "tests.kv.triton_compiled", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.long
@needs_triton
def test_kernels_compile_for_every_generation_and_tile(tmp_path):
    run("-m", "tests.kv.triton_compiled", "--all", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize(
    ("chosen", "tokens", "device", "dtype", "has_kernel", "is_taken"),
    [
        ("auto", 1, "cuda", torch.float16, True, True),
        ("auto", 64, "cuda", torch.bfloat16, True, True),
        ("auto", 65, "cuda", torch.bfloat16, True, False),
        ("auto", 1, "cuda", torch.float16, False, False),
        ("auto", 1, "cuda", torch.float64, True, False),
        ("auto", 1, "cpu", torch.float16, True, False),
        ("torch", 1, "cuda", torch.float16, True, False),
        ("triton", 1, "cpu", torch.float16, True, True),
        ("triton", 65, "cpu", torch.float16, True, False),
    ],
)
def test_few_queries_on_cuda_take_the_kernel_unless_told_otherwise(
    monkeypatch, chosen, tokens, device, dtype, has_kernel, is_taken
):
    kernels = SimpleNamespace() if has_kernel else None
    monkeypatch.setattr(tiered_attention, "_kernels", lambda: kernels)
    config = SimpleNamespace(
        _attn_implementation=ATTENTIONS[chosen], num_attention_heads=8, num_key_value_heads=2
    )
    model = SimpleNamespace(config=config)
    assert is_for_kernel(model, tokens, dtype, torch.device(device)) == is_taken


@pytest.mark.long
@needs_triton
def test_the_decoding_kernel_compiles_for_cuda_to_wide_loads_and_stores(tmp_path):
    run("-m", "tests.kv.triton_decoding_compiled", TRITON_CACHE_DIR=str(tmp_path))


def look_for_kernels():
    assert "batch.kv.triton_attention" not in sys.modules
    sys.modules["triton"] = None  # as if it were not installed
    assert tiered_attention._kernels() is None


def test_kernels_are_imported_only_when_used_and_are_none_without_triton():
    process = multiprocessing.get_context("forkserver").Process(target=look_for_kernels)
    process.start()
    process.join()
    assert process.exitcode == 0


@needs_triton
def test_kernels_asked_for_where_they_cannot_run_are_refused(monkeypatch):
    here = torch.device("cpu")
    with pytest.raises(ModelError, match=r"needs CUDA, the model runs on cpu.*--attn auto"):
        check_kernel("triton", here)
    for kernel in ("auto", "torch"):
        check_kernel(kernel, here)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.raises(ModelError, match=r"pip install 'triton>="):
        check_kernel("triton", here)
