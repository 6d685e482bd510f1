"""Compile the decoding kernel for GPUs without one; `test_triton.py` runs this file."""

import re

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from batch.kv import triton_decoding
from cachefmt.tiers import Tier

ROWS, HEADS, HEAD_DIM = 1000, 8, 128


class Machine:
    """What Triton 3.7 to 3.9 asks of a driver before it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:
    """A kernel that is compiled, not launched."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.ptx = ""

    def __getitem__(self, grid):
        def compile_only(*arguments, **options):
            self.ptx = self.kernel.warmup(*arguments, grid=grid, **options).asm["ptx"]

        return compile_only


def bits(ptx, what):
    """Of each load ("ld") or store ("st") of global memory: together in one instruction."""
    found = re.findall(rf"{what}\.global[\w.:]*?(?:\.v(\d))?\.[bu](\d+)", ptx)
    return [int(many or 1) * int(width) for many, width in found]


def main():
    kernel = triton_decoding._decode
    for capability in (80, 90, 100):
        driver.set_active(Machine(capability))
        for tier in (Tier.INT8, Tier.INT4):
            compiled = triton_decoding._decode = Compiled(kernel)
            stored = tier.codec.encode(torch.ones(ROWS, HEADS, HEAD_DIM), 64)
            out = torch.empty(ROWS, HEADS, HEAD_DIM, dtype=torch.bfloat16)
            triton_decoding.decode_rows(stored, out)
            loads, stores = bits(compiled.ptx, "ld"), bits(compiled.ptx, "st")
            assert max(loads) == 64, loads  # eight codes of a thread; the others are scales
            assert min(stores) == 128, stores  # eight numbers of bfloat16


if __name__ == "__main__":
    main()
