"""VidKV below two bits: ternary values, and keys of one and two bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.packing import Rounded, by_channel, round_channels
from batch.evaluation.methods.row_method import Codec, Held, Rows

_TRITS_A_BYTE = 5


@dataclass(frozen=True, kw_only=True)
class VidKV(Codec):
    """Keys: channels of the larger ranges at 2 bits, the others at 1 bit of their spectrum.

    Values: -1, 0 or 1 times a scale, 1.58 bits. Everything per channel, in groups of 32 tokens.

    Source: VidKV (arXiv 2503.16257), read in its authors' code, and written from its formulas:
    their decoder does not invert the two encoders. Departures: half of the channels of each head
    is fixed, as there; five ternary numbers share a byte, where theirs take 2 bits each; of a
    spectrum each number is stored once; keys without rotation; no text chooses tokens of more
    bits.
    """

    name = "vidkv"

    tokens: int = 32

    def encode(self, rows: Rows) -> Held:
        value = [by_channel(layer, self.tokens, _ternary) for layer in rows.value]
        key = [self._keys(layer) for layer in rows.key]
        size_bytes = sum(layer.size_bytes for layer in (*key, *value))
        return Held(
            torch.stack([layer.states for layer in key]),
            torch.stack([layer.states for layer in value]),
            size_bytes,
        )

    def _keys(self, states: Tensor) -> Rounded:
        """Of a layer, [tokens, heads, head_dim]; which channels are which takes a bit each."""
        heads, head_dim = states.shape[1:]
        extent = states.amax(0) - states.amin(0)
        order = extent.argsort(dim=-1, descending=True).expand(states.shape)
        wide, narrow = torch.split(order, [head_dim - head_dim // 2, head_dim // 2], dim=-1)
        fine = round_channels(states.gather(2, wide), 2, self.tokens)
        spectrum = _spectrum(states.gather(2, narrow))
        coarse = by_channel(spectrum, self.tokens, _signs)
        decoded = torch.empty_like(states)
        decoded.scatter_(2, wide, fine.states)
        decoded.scatter_(2, narrow, _from_spectrum(coarse.states))
        return Rounded(decoded, fine.size_bytes + coarse.size_bytes + -(-heads * head_dim // 8))


def _spectrum(states: Tensor) -> Tensor:
    """Of the last axis, as many real numbers as it has: real parts, then imaginary ones."""
    size = states.shape[-1]
    found = torch.fft.rfft(states, norm="ortho")
    return torch.cat([found.real, found.imag[..., 1 : (size + 1) // 2]], dim=-1)


def _from_spectrum(numbers: Tensor) -> Tensor:
    size = numbers.shape[-1]
    real, imaginary = torch.split(numbers, [size // 2 + 1, size - size // 2 - 1], dim=-1)
    padding = (1, real.shape[-1] - 1 - imaginary.shape[-1])
    whole = torch.complex(real.contiguous(), torch.nn.functional.pad(imaginary, padding))
    states: Tensor = torch.fft.irfft(whole, n=size, norm="ortho")
    return states


def _signs(groups: Tensor) -> Rounded:
    """A bit a number, and the mean magnitude of a group at FP16."""
    scale = groups.abs().mean(-1, keepdim=True).half()
    decoded = torch.where(groups < 0, -1.0, 1.0) * scale.float()
    return Rounded(decoded, -(-groups.numel() // 8) + scale.nbytes)


def _ternary(groups: Tensor) -> Rounded:
    """A trit a number: 0 below half the mean magnitude of its group, which is the scale."""
    scale = groups.abs().mean(-1, keepdim=True).half()
    decoded = groups.sign() * (groups.abs() > scale.float() / 2) * scale.float()
    return Rounded(decoded, -(-groups.numel() // _TRITS_A_BYTE) + scale.nbytes)
