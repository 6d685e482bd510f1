"""A few of the machine's instructions in numpy: what inline assembly computes, without a machine.

Source: NVIDIA, PTX ISA: `prmt` (default mode), `fma.rn.f16x2`, `mul.rn.f16x2`.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Register = NDArray[np.uint32]


def pairs(numbers: NDArray[np.float16]) -> Register:
    """float16 [n, 2] as registers [n], the first number in the lower half."""
    return np.ascontiguousarray(numbers).view(np.uint32)[:, 0]


def halves(register: Register) -> NDArray[np.float16]:
    """Undo `pairs`."""
    return register[:, None].view(np.float16)


def run(assembly: str, outputs: int, inputs: Sequence[Register]) -> list[Register]:
    """The first `outputs` operands ($0, $1, ...) after the code; the others are `inputs`."""
    registers = {f"${outputs + place}": register for place, register in enumerate(inputs)}
    size = len(inputs[0])
    for line in re.findall(r"^([a-z].*);$", assembly, re.MULTILINE):
        name, *operands = re.split(r"[ ,]+", line)
        into, *read = operands
        numbers = [
            registers[one] if one in registers else np.full(size, int(one, 0), np.uint32)
            for one in read
        ]
        registers[into] = _INSTRUCTIONS[name](*numbers)
    return [registers[f"${place}"] for place in range(outputs)]


def _permuted(low: Register, high: Register, selector: Register) -> Register:
    found = np.zeros_like(low)
    for byte in range(4):
        chosen = selector >> (4 * byte) & 7
        word = np.where(chosen < 4, low, high)
        found |= (word >> (chosen % 4 * 8) & 0xFF) << (8 * byte)
    return found


def _wide(register: Register) -> NDArray[np.float64]:
    return halves(register).astype(np.float64)


_INSTRUCTIONS = {
    "mov.b32": lambda a: a,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "shr.u32": lambda a, b: a >> b,
    "prmt.b32": _permuted,
    "fma.rn.f16x2": lambda a, b, c: pairs((_wide(a) * _wide(b) + _wide(c)).astype(np.float16)),
    "mul.rn.f16x2": lambda a, b: pairs((_wide(a) * _wide(b)).astype(np.float16)),
}
