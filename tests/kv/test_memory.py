"""What a large batch allocates: its own states, never another copy of the prefix."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from batch.kv import Prefix, TieredCache
from batch.kv.prefix import CHUNK_ROWS
from cachefmt import Tier
from tests.kv.decoders import ask, decoder, shape, store, tiered, tokens

PREFIX, BATCH = 4 * CHUNK_ROWS, 64


class Allocations(TorchDispatchMode):
    """Records the size of the largest memory block that any operation returns, except `known`.

    Operations write only into memory that they return or were given, so what a kernel frees
    before it returns is not counted.
    """

    def __init__(self, known):
        super().__init__()
        self.known = known
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.largest = max(self.largest, storage.nbytes())
        return result


def storages(prefix):
    return {
        tensor.untyped_storage().data_ptr()
        for layer in range(prefix.shape.layers)
        for part in prefix.layer(layer)
        if len(part)
        for tensor in (*part.key, *part.value)
    }


def largest_block(model, prefix, batch):
    ids = tokens(batch, 1, seed=1)
    with Allocations(storages(prefix)) as allocations:
        ask(model, TieredCache(prefix), ids, torch.full((batch, 1), PREFIX))
    return allocations.largest


def test_a_batch_of_64_does_not_copy_the_prefix():
    model = tiered(decoder("llama"))
    prefix = Prefix.allocate(shape(PREFIX), "cpu")
    store(model, prefix, tokens(PREFIX), torch.arange(PREFIX), (512,) * (PREFIX // 512))
    before = storages(prefix)
    own = BATCH * 2 * 64 * 8 * 4  # one layer's suffix keys at its first capacity
    one_copy = prefix.layer(0)[0].key[0].nbytes
    largest = largest_block(model, prefix, BATCH)
    assert largest <= own < BATCH * one_copy / 8
    assert storages(prefix) == before


def test_a_copy_would_be_seen():
    prefix = Prefix.allocate(shape(PREFIX), "cpu")
    key = torch.zeros(PREFIX, 2, 8)
    for layer in range(prefix.shape.layers):
        prefix.append(layer, Tier.FP16, key, key)
    (stored,) = prefix.layer(0)[0].key
    with Allocations(storages(prefix)) as allocations:
        stored.expand(BATCH, *stored.shape)
        assert allocations.largest == 0
        stored.repeat(BATCH, 1, 1, 1)
    assert allocations.largest == BATCH * stored.nbytes
