"""Compile what would be launched on an Ampere GPU, without one; `test_triton.py` runs this file."""

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from batch.kv import triton_attention
from batch.kv.rows import Scratch, StoredRows
from cachefmt.tiers import Tier

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
    int8 = (torch.ones(ROWS, HEADS, HEAD_DIM, dtype=torch.int8), scale)
    int4 = (torch.ones(ROWS, HEADS, HEAD_DIM // 2, dtype=torch.uint8), scale, scale)
    # Triton compiles arguments that are 1 as constants: here rows, queries, strides of the scale.
    one = torch.ones(1, 1, 1, dtype=torch.float16)
    single = (torch.ones(1, 1, HEAD_DIM // 2, dtype=torch.uint8), one, one)
    raw = (torch.ones(ROWS, HEADS, HEAD_DIM, dtype=torch.bfloat16),)
    for tier, parts, bias, queries, splits in [
        (Tier.INT4, int4, None, 5, 3),
        (Tier.INT8, int8, torch.ones(ROWS), 500, 1),
        (Tier.INT4, single, torch.ones(1), 1, 1),
        (Tier.FP16, raw, None, 500, 1),
    ]:
        query = torch.ones(parts[0].shape[1], queries, HEAD_DIM, dtype=torch.bfloat16)
        rows = StoredRows(tier=tier, key=parts, value=parts, bias=bias, scratch=Scratch())
        triton_attention.attend_stored(query, rows, scaling=1.0, splits=splits)
    names = [name for name, _ in compiled]
    assert names == ["attend_kernel", "merge_kernel", *["attend_kernel"] * 3], names
    assert all(shared <= LEAST_SHARED_BYTES for _, shared in compiled), compiled


if __name__ == "__main__":
    main()
