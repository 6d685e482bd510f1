"""Compile what would be launched on GPUs, without one; `test_triton.py` runs this file.

By itself it compiles a decode step over INT4 rows for sm_90; with --all every tier, a question,
and sm_80 and sm_100.
"""

import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from batch.kv import triton_attention
from batch.kv.rows import Scratch, StoredRows
from cachefmt.tiers import STORED_TIERS, Tier

KV_HEADS, GROUP, HEAD_DIM = 8, 4, 128
LEAST_SHARED_BYTES = 99 * 1024
"""What a program may take on every GPU from Ampere on (sm_86 and sm_89 have the least)."""
MOST_SPILLED_BYTES = 24
"""Of a question's tile on sm_90; a decode step spills nothing anywhere."""


class Machine:
    """What Triton 3.7 to 3.9 asks of a driver before it compiles."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self):
        return self.architecture  # one for each: what is compiled is kept by device

    def get_current_stream(self, device):
        return 0


class Compiled:
    """A kernel that is compiled, not launched."""

    def __init__(self, kernel, compiled):
        self.kernel = kernel
        self.compiled = compiled

    def __getitem__(self, grid):
        def compile_only(*arguments, **options):
            self.compiled.append(self.kernel.warmup(*arguments, grid=grid, **options))

        return compile_only


def part(tier, rows=1000):
    scale = torch.ones(rows, KV_HEADS, 2, dtype=torch.float16)
    parts = {
        Tier.FP16: (torch.ones(rows, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16),),
        Tier.INT8: (torch.ones(rows, KV_HEADS, HEAD_DIM, dtype=torch.int8), scale),
        Tier.INT4: (torch.ones(rows, KV_HEADS, HEAD_DIM // 2, dtype=torch.uint8), scale, scale),
    }[tier]
    bias = torch.ones(rows) if tier is Tier.INT8 else None
    return StoredRows(tier=tier, key=parts, value=parts, bias=bias, scratch=Scratch())


def attend(tiers, new):
    query = torch.ones(1, GROUP * KV_HEADS, new, HEAD_DIM, dtype=torch.bfloat16)
    own = torch.ones(1, KV_HEADS, 64, HEAD_DIM, dtype=torch.bfloat16)
    here = torch.device("cpu")
    rows = triton_attention.prepare(
        [part(tier) for tier in tiers], kv_heads=KV_HEADS, head_dim=HEAD_DIM, device=here
    )
    padding = torch.zeros(1, dtype=torch.int32)
    suffix = triton_attention.Suffix(own, own, torch.arange(new), padding)
    triton_attention.attend_few(query, rows, suffix, scaling=1.0)


def resources(kernel):
    """Registers, and bytes of stack and local memory: where spilled ones go."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])


def check(kernel, architecture):
    registers, spilled = resources(kernel)
    ptx = kernel.asm["ptx"]
    assert f".target sm_{architecture}" in ptx
    # Codes are copied ahead into shared memory; 0x10 bytes a thread are the widest there is. Only
    # the bias comes in fours, and scales by themselves, a number at a time.
    widths = collections.Counter(
        re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx)
    )
    loads = collections.Counter(re.findall(r"ld\.global\S*", ptx))
    print(  # noqa: T201  # the figures are what one looks for here
        f"{kernel.metadata.name} sm_{architecture}: {registers} registers, {spilled} B spilled,",
        f"{kernel.metadata.shared} B shared; copies {dict(widths)}; loads {dict(loads)}",
    )
    assert spilled <= MOST_SPILLED_BYTES
    assert kernel.metadata.shared <= LEAST_SHARED_BYTES
    if kernel.metadata.name == "attend_kernel":
        assert widths["0x10"] > 0
        assert set(widths) <= {"0x10", "0x4"}
        assert not [load for load in loads if load.endswith(("b8", "u8", "s8"))]
        assert sum(number for load, number in loads.items() if ".v4." in load) > 0  # queries


def main(everything):
    names = ("attend_kernel", "merge_kernel")
    kernels = [getattr(triton_attention, name) for name in names]
    for architecture in (80, 90, 100) if everything else (90,):
        driver.set_active(Machine(architecture))
        compiled = []
        for name, kernel in zip(names, kernels, strict=True):
            setattr(triton_attention, name, Compiled(kernel, compiled))
        attend([Tier.INT4], 1)
        if everything:
            attend(STORED_TIERS, 1)
            attend(STORED_TIERS, 24)
            attend([], 1)
        assert [kernel.metadata.name for kernel in compiled[:2]] == list(names)
        for kernel in compiled:
            check(kernel, architecture)


if __name__ == "__main__":
    main("--all" in sys.argv)
