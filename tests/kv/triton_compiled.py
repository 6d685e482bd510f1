"""Compile what would be launched on an Ampere GPU, without one; `test_triton.py` runs this file."""

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from batch.kv import triton_attention
from batch.kv.attention import Stored, StoredRows

ROWS, HEADS, HEAD_DIM = 1000, 2, 128
LEAST_SHARED_BYTES = 99 * 1024
"""What a program may take on every GPU from Ampere on (sm_86 and sm_89 have the least)."""


class Machine:
    """What Triton 3.7 to 3.9 asks of a driver before it compiles."""

    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:
    """A kernel that is compiled, not launched."""

    def __init__(self, kernel, compiled):
        self.kernel = kernel
        self.compiled = compiled

    def __getitem__(self, grid):
        def compile_only(*arguments, **options):
            kernel = self.kernel.warmup(*arguments, grid=grid, **options)
            self.compiled.append((kernel.metadata.name, kernel.metadata.shared))

        return compile_only


def main():
    driver.set_active(Machine())
    compiled = []
    for name in ("attend_kernel", "merge_kernel"):
        setattr(triton_attention, name, Compiled(getattr(triton_attention, name), compiled))
    scale = torch.ones(ROWS, HEADS, 2, dtype=torch.float16)
    int8 = Stored(torch.ones(ROWS, HEADS, HEAD_DIM, dtype=torch.int8), scale, None)
    int4 = Stored(torch.ones(ROWS, HEADS, HEAD_DIM // 2, dtype=torch.uint8), scale, scale)
    # Triton compiles arguments that are 1 as constants: here rows, queries, strides of the scale.
    one = torch.ones(1, 1, 1, dtype=torch.float16)
    single = Stored(torch.ones(1, 1, HEAD_DIM // 2, dtype=torch.uint8), one, one)
    raw = Stored(torch.ones(ROWS, HEADS, HEAD_DIM, dtype=torch.bfloat16), None, None)
    for stored, bias, queries, splits in [
        (int4, None, 5, 3),
        (int8, torch.ones(ROWS), 500, 1),
        (single, torch.ones(1), 1, 1),
        (raw, None, 500, 1),
    ]:
        query = torch.ones(stored.codes.shape[1], queries, HEAD_DIM, dtype=torch.bfloat16)
        rows = StoredRows(stored, stored, bias)
        triton_attention.attend_stored(query, rows, scaling=1.0, splits=splits)
    names = [name for name, _ in compiled]
    assert names == ["attend_kernel", "merge_kernel", *["attend_kernel"] * 3], names
    assert all(shared <= LEAST_SHARED_BYTES for _, shared in compiled), compiled


if __name__ == "__main__":
    main()
