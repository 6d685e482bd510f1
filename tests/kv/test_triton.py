"""The Triton kernels: interpreted here, compiled for CUDA without a GPU, and run on one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from batch.errors import ModelError
from batch.kv import attention, check_kernel
from batch.kv.attention import FEW_QUERIES, takes_stored
from tests.kv.encoded import random, raw

ROOT = Path(__file__).parent.parent.parent
CASES = "tests/kv/triton_cases.py"
DECODING = "tests/kv/triton_decoding_cases.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs Triton: pip install sali-cache[triton]",
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


@needs_triton
def test_interpreted_kernels_equal_the_torch_path():
    run("-m", "pytest", "-q", CASES, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.needs_gpu
@needs_triton
def test_kernels_on_cuda_equal_the_torch_path():
    run("-m", "pytest", "-q", CASES, FAIL_WITHOUT_GPU="1")


@needs_triton
def test_kernels_compile_for_cuda_and_fit_its_shared_memory(tmp_path):
    """The interpreter knows no types, layouts or limits."""
    run("-m", "tests.kv.triton_compiled", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
def test_the_decoding_kernel_interpreted_equals_the_codecs():
    run("-m", "pytest", "-q", DECODING, TRITON_INTERPRET="1")


@needs_triton
def test_the_decoding_kernel_compiles_for_cuda_to_wide_loads_and_stores(tmp_path):
    run("-m", "tests.kv.triton_decoding_compiled", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.needs_gpu
@needs_triton
def test_the_decoding_kernel_on_cuda_equals_the_codecs():
    run("-m", "pytest", "-q", DECODING, FAIL_WITHOUT_GPU="1")


@pytest.mark.parametrize(
    ("chosen", "device", "dtype", "folded", "is_kernel"),
    [
        ("auto", "cuda", torch.float16, FEW_QUERIES, True),
        ("auto", "cuda", torch.float16, FEW_QUERIES + 1, False),
        ("auto", "cuda", torch.float64, 1, False),
        ("auto", "cpu", torch.float16, 1, False),
        ("torch", "cuda", torch.float16, 1, False),
        ("triton", "cpu", torch.float16, 10_000, True),
    ],
)
def test_few_queries_on_cuda_take_the_kernel_unless_told_otherwise(
    chosen, device, dtype, folded, is_kernel
):
    # CUDA need not be there.
    query = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(2, folded, 16))
    assert takes_stored(query, chosen) == is_kernel


def test_without_triton_rows_are_decoded_in_chunks(monkeypatch):
    query, (key, value) = random(2, 3, 16), random(2, 9, 2, 16, seed=1)
    monkeypatch.setattr(attention, "takes_stored", lambda query, kernel: True)
    monkeypatch.setattr(attention, "_attend_stored", lambda: None)
    output, _ = attention.attend(query, [raw(key, value)], scaling=1.0)
    monkeypatch.undo()
    assert torch.equal(output, attention.attend(query, [raw(key, value)], scaling=1.0)[0])


def test_kernels_are_imported_only_when_used_and_are_none_without_triton():
    run(
        "-c",
        "import sys\n"
        "from batch.kv import attention\n"
        "assert 'batch.kv.triton_attention' not in sys.modules\n"
        "sys.modules['triton'] = None  # as if it were not installed\n"
        "assert attention._attend_stored() is None",
    )


@needs_triton
def test_kernels_asked_for_where_they_cannot_run_are_refused(monkeypatch):
    here = torch.device("cpu")
    with pytest.raises(ModelError, match=r"needs CUDA, the model runs on cpu.*--attn auto"):
        check_kernel("triton", here)
    for kernel in ("auto", "torch"):
        check_kernel(kernel, here)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.raises(ModelError, match=r"pip install 'sali-cache\[triton\]'"):
        check_kernel("triton", here)
