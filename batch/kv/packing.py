"""The real tokens of a padded batch along one axis, so that nothing is computed for padding.

Knows tensors only.
"""

from torch import Tensor


class Packing:
    """Packs tensors of a padded batch, sequence after sequence, and puts the padding back."""

    def __init__(self, is_real: Tensor) -> None:
        """Leave out all columns but those where bool [batch, new] is true.

        What is packed may be on any device: a model may be spread over several.
        """
        self._shape = is_real.shape
        self._places = is_real.flatten().nonzero().flatten()

    def pack(self, padded: Tensor) -> Tensor:
        """[batch, new, ...] -> [1, real, ...]."""
        return padded.flatten(0, 1)[self._places.to(padded.device)][None]

    def unpack(self, packed: Tensor) -> Tensor:
        """[1, real, ...] -> [batch, new, ...]; the padding is 0."""
        batch, new = self._shape
        padded = packed.new_zeros((batch * new, *packed.shape[2:]))
        padded[self._places.to(packed.device)] = packed[0]
        return padded.view(batch, new, *packed.shape[2:])

    def pack_heads(self, padded: Tensor) -> Tensor:
        """[batch, heads, new, ...] -> [1, heads, real, ...]."""
        return self.pack(padded.transpose(1, 2)).transpose(1, 2)

    def unpack_heads(self, packed: Tensor) -> Tensor:
        """[1, heads, real, ...] -> [batch, heads, new, ...]; the padding is 0."""
        return self.unpack(packed.transpose(1, 2)).transpose(1, 2)

    def pack_positions(self, padded: Tensor) -> Tensor:
        """[batch, new] -> [1, real], or [axes, batch, new] -> [axes, 1, real]."""
        return padded.flatten(-2)[..., None, self._places.to(padded.device)]
