"""The keys and values of one layer that belong to each sequence alone and grow with it.

Knows transformers' interface of a cache layer (5.23); knows nothing of the prefix.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

_FIRST_CAPACITY = 64


class SuffixLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers 5.23
    """Keys and values of one layer that grow in place.

    `keys` and `values` are buffers [batch, kv_heads, capacity, head_dim] of which the first
    `length` columns count; capacity doubles, so n steps copy O(n) columns, not O(n^2).
    """

    def __init__(self) -> None:
        """Hold nothing."""
        super().__init__()  # type: ignore[no-untyped-call]  # transformers 5.23
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve columns for the states to come, in their shape, dtype and device."""
        self.keys = _with_room(self.keys, self.length, key_states)
        self.values = _with_room(self.values, self.length, value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states [batch, kv_heads, new, head_dim]; returns views of all states so far.

        Raises:
            ValueError: the suffix is of another batch; assigning would repeat or mix sequences.
        """
        if self.keys is not None and self.keys.shape[0] != key_states.shape[0]:
            raise ValueError(
                f"got a batch of {key_states.shape[0]}, the suffix holds {self.keys.shape[0]} "
                "sequences: clear_suffix() comes before another batch"
            )
        keys = _with_room(self.keys, self.length, key_states)
        values = _with_room(self.values, self.length, value_states)
        stop = self.length + key_states.shape[2]
        keys[:, :, self.length : stop] = key_states
        values[:, :, self.length : stop] = value_states
        self.keys, self.values, self.length = keys, values, stop
        self.is_initialized = True
        return keys[:, :, :stop], values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Suffix columns after an update by `query_length`, and their offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Suffix columns held."""
        return self.length

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def keep(self, sequences: Tensor) -> None:
        """Forget all sequences of the batch but these, int64 [kept], in this order."""
        if self.keys is None or self.values is None:
            return
        with torch.inference_mode(False):  # as in _with_room
            sequences = sequences.to(self.keys.device)
            self.keys, self.values = self.keys[sequences], self.values[sequences]

    def reset(self) -> None:
        """Forget everything and give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False
        self.length = 0


def _with_room(buffer: Tensor | None, length: int, states: Tensor) -> Tensor:
    """The buffer if it has room for `states` after its first `length` columns, else a larger one.

    buffer [batch, heads, capacity, head_dim]; states [batch, heads, new, head_dim].
    """
    batch, heads, new, head_dim = states.shape
    capacity = 0 if buffer is None else buffer.shape[2]
    if buffer is not None and length + new <= capacity:
        return buffer
    shape = (batch, heads, max(_FIRST_CAPACITY, 2 * capacity, length + new), head_dim)
    # An inference tensor could not be written to outside inference mode later.
    with torch.inference_mode(False):
        larger = torch.empty(shape, dtype=states.dtype, device=states.device)
    if buffer is not None:
        larger[:, :, :length] = buffer[:, :, :length]
    return larger
