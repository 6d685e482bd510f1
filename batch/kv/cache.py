"""What a language model over tiers remembers: the shared prefix, and each sequence's own suffix.

Knows transformers' interface of caches and their layers (5.23).
"""

from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from batch.kv.attention import Block
from batch.kv.evidence import Observer
from batch.kv.prefix import Prefix

_FIRST_CAPACITY = 64

_VERSION = tuple(int(part) for part in version("transformers").split(".")[:2])
CACHE_KEYWORD = "cache" if _VERSION >= (5, 24) else "past_key_values"
"""What transformers calls the cache that a model is given: since 5.24 it warns of the old name."""


class Columns(NamedTuple):
    """Where the new columns of a forward pass stand in the suffix, told on the device.

    So the host need not know it, and what a CUDA graph captured once holds for every length.
    """

    place: Tensor
    """int64 [new], consecutive."""
    padding: Tensor
    """int32 [batch]: columns of padding at the left of each sequence's suffix."""


class TieredCache(Cache):
    """One shared prefix and, per layer, the growing suffix of each sequence of a batch.

    What transformers sees as the cache is the suffix alone; the prefix is never written, copied
    or repeated by a forward pass.
    """

    def __init__(
        self,
        prefix: Prefix,
        observer: Observer | None = None,
        *,
        capacity: int = _FIRST_CAPACITY,
    ) -> None:
        """capacity: columns of suffix that buffers are made for at first."""
        self._suffixes = [SuffixLayer(capacity) for _ in range(prefix.shape.layers)]
        super().__init__(layers=[*self._suffixes])
        self.prefix = prefix
        self.observer = observer
        self.packing = Packing()
        """How the forward pass that is running lays out its tokens."""
        self.columns: Columns | None = None
        """Given where the running pass attends by a kernel, which finds its columns there."""
        self.prepared: dict[int, Any] = {}
        """What such a kernel keeps of each layer of the prefix."""
        self.filling: Block | None = None
        """The columns of a pass that runs for its keys and values alone."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states of a layer, unpacked; with them the block's reused rows, if it has any.

        Returns views of its whole suffix; with `columns` its buffers, all of their capacity.
        """
        if self.columns is not None:
            return self._suffixes[layer_idx].put(key_states, value_states, self.columns.place)
        if self.filling is not None and self.filling.reused is not None:
            completed = self.filling.reused.complete(layer_idx, key_states, value_states)
            return self._suffixes[layer_idx].update(*completed)
        key, value = map(self.packing.unpack_heads, (key_states, value_states))
        return self._suffixes[layer_idx].update(key, value)

    def advance(self, new: int) -> None:
        """Count the columns of a pass that found its own in `columns`."""
        for suffix in self._suffixes:
            suffix.length += new

    def suffix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Key and value [batch, kv_heads, length, head_dim], views valid until the next forward."""
        held = self._suffixes[layer]
        if held.keys is None or held.values is None:
            raise ValueError(f"layer {layer} has no suffix yet")
        return held.keys[:, :, : held.length], held.values[:, :, : held.length]

    def keep(self, sequences: Tensor) -> None:
        """Go on with these sequences of the batch alone, in this order; int64 [kept]."""
        for suffix in self._suffixes:
            suffix.keep(sequences)
        if self.observer is not None:
            self.observer.keep(sequences)

    def shorten(self, length: int) -> None:
        """Forget all columns of the suffix but the first ones."""
        for suffix in self._suffixes:
            suffix.length = min(suffix.length, length)

    def clear_suffix(self) -> None:
        """Forget the sequences, so that others (of any batch size) can follow the same prefix."""
        self.shorten(0)


class SuffixLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers 5.23
    """Keys and values of one layer that grow in place.

    `keys` and `values` are buffers [batch, kv_heads, capacity, head_dim] of which the first
    `length` columns count; capacity doubles, so n steps copy O(n) columns, not O(n^2). They stay
    where they are until they are too small or another batch comes.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers 5.23
        self.length = 0
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Assigning another batch would repeat or mix sequences.
        if self.length and self.keys is not None and self.keys.shape[0] != key_states.shape[0]:
            raise ValueError(
                f"got a batch of {key_states.shape[0]}, the suffix holds {self.keys.shape[0]} "
                "sequences: clear_suffix() comes before another batch"
            )
        self.keys = _with_room(self.keys, self.length, key_states, self._capacity)
        self.values = _with_room(self.values, self.length, value_states, self._capacity)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states [batch, kv_heads, new, head_dim]; returns views of all states so far."""
        keys, values = self._buffers(key_states, value_states)
        stop = self.length + key_states.shape[2]
        keys[:, :, self.length : stop] = key_states
        values[:, :, self.length : stop] = value_states
        self.length = stop
        return keys[:, :, :stop], values[:, :, :stop]

    def put(self, key_states: Tensor, value_states: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Write states to the columns int64 [new] behind `length`, which stays; the buffers."""
        keys, values = self._buffers(key_states, value_states)
        place = place.to(keys.device)
        return keys.index_copy_(2, place, key_states), values.index_copy_(2, place, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1  # no limit

    def keep(self, sequences: Tensor) -> None:
        if self.keys is None or self.values is None:
            return
        with torch.inference_mode(False):  # as in _with_room
            sequences = sequences.to(self.keys.device)
            self.keys, self.values = self.keys[sequences], self.values[sequences]

    def reset(self) -> None:
        self.length = 0

    def _buffers(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        self.lazy_initialization(key_states, value_states)
        if self.keys is None or self.values is None:
            raise ValueError("the suffix has no buffers")
        return self.keys, self.values


class Packing:
    """Packs tensors of a padded batch, sequence after sequence, and puts the padding back.

    They may be on any device: a model may be spread over several.
    """

    def __init__(self, is_real: Tensor | None = None) -> None:
        """Leave out all columns but those where bool [batch, new] is true; None: change nothing.

        On the CPU it costs no device a wait.
        """
        self._places: dict[torch.device, Tensor] = {}
        if is_real is not None and not bool(is_real.all()):
            self._shape = is_real.shape
            self._first = is_real.flatten().nonzero().flatten()
            self._places[is_real.device] = self._first

    def pack(self, padded: Tensor) -> Tensor:
        """[batch, new, ...] -> [1, real, ...]."""
        if not self._places:
            return padded
        return padded.flatten(0, 1)[self._on(padded.device)][None]

    def unpack(self, packed: Tensor) -> Tensor:
        """[1, real, ...] -> [batch, new, ...]; the padding is 0."""
        if not self._places:
            return packed
        padded = packed.new_zeros((self._shape.numel(), *packed.shape[2:]))
        padded.index_copy_(0, self._on(packed.device), packed[0])
        return padded.view(*self._shape, *packed.shape[2:])

    def pack_heads(self, padded: Tensor) -> Tensor:
        """[batch, heads, new, ...] -> [1, heads, real, ...]."""
        return self.pack(padded.transpose(1, 2)).transpose(1, 2)

    def unpack_heads(self, packed: Tensor) -> Tensor:
        """[1, heads, real, ...] -> [batch, heads, new, ...]; the padding is 0."""
        return self.unpack(packed.transpose(1, 2)).transpose(1, 2)

    def pack_positions(self, padded: Tensor) -> Tensor:
        """[batch, new] -> [1, real], or [axes, batch, new] -> [axes, 1, real]."""
        if not self._places:
            return padded
        return padded.flatten(-2)[..., None, self._on(padded.device)]

    def _on(self, device: torch.device) -> Tensor:
        """The places of what is real, copied to each device once."""
        if device not in self._places:
            self._places[device] = self._first.to(device)
        return self._places[device]


def _with_room(buffer: Tensor | None, length: int, states: Tensor, capacity: int) -> Tensor:
    """The buffer if `states` fit behind its first `length` columns, else a larger one."""
    batch, heads, new, head_dim = states.shape
    held = buffer if buffer is not None and buffer.shape[0] == batch else None
    if held is not None:
        if length + new <= held.shape[2]:
            return held
        capacity = 2 * held.shape[2]
    shape = (batch, heads, max(capacity, length + new), head_dim)
    # An inference tensor could not be written to outside inference mode later.
    with torch.inference_mode(False):
        larger = torch.empty(shape, dtype=states.dtype, device=states.device)
    if held is not None and length:
        larger[:, :, :length] = held[:, :, :length]
    return larger
