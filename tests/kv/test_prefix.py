"""The prefix holds what was appended, gives it back, and expands into a plain cache."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batch.kv import Prefix, TieredCache
from batch.kv.prefix import CHUNK_ROWS
from cachefmt import STORED_TIERS, CacheFile, Tier, tensor_specs, token_counts
from cachefmt.codecs import int4, int8
from cachefmt.layout import KINDS, row_tensors
from tests.cachefmt.files import make_arrays, make_header, write_file
from tests.kv.decoders import FAMILIES, ask, decoder, shape, store, tiered, tokens

SIZES = {tier: rows for rows, tier in enumerate(STORED_TIERS, 5)}
SHAPE = replace(shape(0), tokens=token_counts(SIZES))


def states(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, 2, 8, generator=generator).unbind(0)


def allocate(raw_dtype="F32"):
    return Prefix.allocate(replace(SHAPE, raw_dtype=raw_dtype), "cpu")


def fill(prefix, seed=0):
    """Append all rows; returns what `append` returned."""
    names = {}
    for layer in range(prefix.shape.layers):
        for tier in STORED_TIERS:
            key, value = states(SIZES[tier], seed + 10 * layer + tier)
            names |= prefix.append(layer, tier, key, value)
    return names


def decoded(prefix, layer):
    """Key and value rows of a layer in the order of the file."""
    chunks = [
        (chunk.key.clone(), chunk.value.clone())
        for part in prefix.layer(layer)
        for chunk in part.chunks(torch.float32, 4)
    ]
    return tuple(torch.cat(kind) for kind in zip(*chunks, strict=True))


def written(path, prefix, names, multiplicity):
    """Write a prefix into a file as prefill does; returns the path."""
    arrays = make_arrays(prefix.shape) | {"token.multiplicity": multiplicity.int().numpy()}
    for name, rows in names.items():
        arrays[name] = (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy()
    return write_file(path, make_header(prefix.shape), arrays)


def test_appended_rows_come_back_tier_by_tier_as_the_codec_decodes_them():
    prefix = allocate()
    fill(prefix)
    assert prefix.tokens == sum(SIZES.values())
    found = [rows.split(list(SIZES.values())) for rows in decoded(prefix, 1)]
    for place, (tier, rows) in enumerate(SIZES.items()):
        for kind, expected in zip(found, states(rows, 10 + tier), strict=True):
            parts = tier.codec.encode(expected, SHAPE.group_size)
            assert torch.equal(kind[place], tier.codec.decode(*parts))


@given(cuts=st.lists(st.integers(0, 7), max_size=3), tier=st.sampled_from(STORED_TIERS))
def test_appending_in_blocks_equals_appending_at_once(cuts, tier):
    key, value = states(SIZES[tier])
    once, blocks = allocate(), allocate()
    once.append(0, tier, key, value)
    edges = [0, *sorted(min(cut, len(key)) for cut in cuts), len(key)]
    for start, stop in pairwise(edges):
        assert blocks.filled(0, tier) == start
        blocks.append(0, tier, key[start:stop], value[start:stop])
    for got, expected in zip(decoded(blocks, 0), decoded(once, 0), strict=True):
        assert torch.equal(got, expected)


def test_append_returns_the_stored_rows_under_their_names_in_the_file():
    prefix = allocate()
    names = fill(prefix)
    specs = {n: s for n, s in tensor_specs(prefix.shape).items() if n.startswith("layers.")}
    assert {name: tuple(rows.shape) for name, rows in names.items()} == {
        name: spec.shape for name, spec in specs.items()
    }
    key, value = states(SIZES[Tier.INT4], 10 + Tier.INT4)
    codes, scale, minimum = int4.encode(key, prefix.shape.group_size)
    assert torch.equal(names["layers.1.key.int4"], codes)
    assert torch.equal(names["layers.1.key.int4.scale"], scale)
    assert torch.equal(names["layers.1.key.int4.minimum"], minimum)
    value = states(SIZES[Tier.INT8], 20 + Tier.INT8)[1]
    codes, scale = int8.encode(value, prefix.shape.group_size)
    assert torch.equal(names["layers.2.value.int8"], codes)
    assert torch.equal(names["layers.2.value.int8.scale"], scale)
    assert prefix.size_bytes == sum(spec.size_bytes for spec in specs.values())


def test_rows_that_are_not_filled_are_not_seen():
    prefix = allocate()
    key, value = states(2)
    prefix.append(0, Tier.INT8, key, value)
    assert {part.tier: len(part) for part in prefix.layer(0)} == {
        **dict.fromkeys(SIZES, 0),
        Tier.INT8: 2,
    }
    assert prefix.tokens == 0  # the other layers hold nothing


@pytest.mark.parametrize(
    ("tier", "key", "message"),
    [
        (Tier.INT8, torch.zeros(7, 2, 8), "INT8 of layer 0 holds 0 of 6 rows: no room for 7 more"),
        (Tier.INT8, torch.zeros(3, 8, 2), r"got shape \(3, 8, 2\), expected \(3, 2, 8\)"),
        (Tier.FP16, torch.zeros(3, 2, 8).half(), "got torch.float16, the file keeps torch.float32"),
        (Tier.INT4, torch.full((3, 2, 8), torch.nan), "NaN"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused_and_leave_the_prefix_as_it_was(tier, key, message):
    prefix = allocate()
    with pytest.raises(ValueError, match=message):
        prefix.append(0, tier, key, key)
    assert prefix.filled(0, tier) == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [(torch.ones(4).int(), "expected \\(5,\\)"), (torch.tensor([1, 1, 0, 1, 1]), "got 0 < 1")],
)
def test_impossible_multiplicities_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        allocate().set_multiplicity(Tier.FP16, counts)


def test_multiplicity_is_a_bias_and_can_be_taken_back():
    prefix = allocate()
    fill(prefix)
    prefix.set_multiplicity(Tier.INT8, torch.tensor([1, 1, 4, 1, 2, 1]))
    assert prefix.layer(0)[0].bias is None
    bias = prefix.layer(0)[1].bias
    torch.testing.assert_close(bias.exp(), torch.tensor([1.0, 1, 4, 1, 2, 1]))
    prefix.set_multiplicity(Tier.INT8, torch.ones(6).int())
    assert prefix.layer(0)[1].bias is None


@pytest.mark.parametrize("raw_dtype", ["F32", "F16", "BF16"])
def test_a_written_file_loads_bit_for_bit_over_the_mapped_file(tmp_path, raw_dtype):
    prefix = allocate(raw_dtype)
    dtype = prefix.raw_dtype
    names = {}
    for layer in range(prefix.shape.layers):
        for tier in STORED_TIERS:
            key, value = (kind.to(dtype) for kind in states(SIZES[tier], layer))
            names |= prefix.append(layer, tier, key, value)
    multiplicity = torch.ones(sum(SIZES.values()), dtype=torch.int32)
    with CacheFile.open(written(tmp_path / "x.safetensors", prefix, names, multiplicity)) as file:
        loaded = Prefix.load(file, "cpu")
        assert loaded.tokens == prefix.tokens
        assert loaded.size_bytes == prefix.size_bytes
        for layer in range(prefix.shape.layers):
            for got, expected in zip(decoded(loaded, layer), decoded(prefix, layer), strict=True):
                assert torch.equal(got, expected)
        mapped = file.array("layers.2.key.int8")
        assert loaded.layer(2)[1].key[0].data_ptr() == mapped.ctypes.data
        with pytest.raises(ValueError, match="no room"):
            loaded.append(0, Tier.FP16, *(kind.to(dtype) for kind in states(1)))
        del loaded, mapped


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expanded_cache_answers_as_the_tiers_do(tmp_path, family):
    model = decoder(family)
    over_tiers = tiered(model)
    count = sum(SIZES.values())
    tiers = torch.tensor([t for t in STORED_TIERS for _ in range(SIZES[t])])
    tiers = tiers[torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    prefix = allocate()
    store(over_tiers, prefix, tokens(count), torch.arange(count), (4, 5, count - 9), tiers)
    names = {
        name: tensor
        for layer in range(prefix.shape.layers)
        for name, tensor in stored(prefix, layer).items()
    }
    multiplicity = torch.randint(1, 5, (count,), generator=torch.Generator().manual_seed(2))
    question, positions = tokens(1, 6, seed=1), count + torch.arange(6)[None]
    without_counts = ask(over_tiers, TieredCache(prefix), question, positions)
    path = written(tmp_path / "x.safetensors", prefix, names, multiplicity)
    with CacheFile.open(path) as file:
        loaded = Prefix.load(file, "cpu")
        got = ask(over_tiers, TieredCache(loaded), question, positions)
        plain = loaded.to_dynamic_cache(torch.float32)
        del loaded
    assert plain.get_seq_length() == int(multiplicity.sum())
    with torch.no_grad():
        expected = model(question, past_key_values=plain, position_ids=positions).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - without_counts).abs().max() > 1e-2


def stored(prefix, layer):
    """The layer's tensors by name, out of its public parts."""
    return {
        name: rows
        for part in prefix.layer(layer)
        for kind in KINDS
        for name, rows in zip(row_tensors(layer, kind, part.tier), getattr(part, kind), strict=True)
    }


def test_each_row_of_a_long_prefix_is_repeated_as_often_as_it_counts():
    rows = 2 * CHUNK_ROWS + 5
    prefix = Prefix.allocate(shape(0, 0, rows), "cpu")
    counts = torch.randint(1, 4, (rows,), generator=torch.Generator().manual_seed(1))
    prefix.set_multiplicity(Tier.INT4, counts)
    for layer in range(prefix.shape.layers):
        prefix.append(layer, Tier.INT4, *states(rows, layer))
    plain = prefix.to_dynamic_cache(torch.float32)
    for layer in range(prefix.shape.layers):
        key, value = (kind.repeat_interleave(counts, 0) for kind in decoded(prefix, layer))
        assert torch.equal(plain.layers[layer].keys[0].transpose(0, 1), key)
        assert torch.equal(plain.layers[layer].values[0].transpose(0, 1), value)


def test_an_empty_prefix_expands_into_an_empty_cache():
    plain = allocate().to_dynamic_cache(torch.float32)
    assert plain.get_seq_length() == 0


def test_each_layer_keeps_its_rows_where_it_attends():
    devices = [torch.device("cpu"), *[torch.device("meta")] * (SHAPE.layers - 1)]
    prefix = Prefix.allocate(SHAPE, devices)
    prefix.set_multiplicity(Tier.INT8, torch.full((SIZES[Tier.INT8],), 2))
    prefix.append(0, Tier.INT8, *states(SIZES[Tier.INT8]))
    for layer, device in enumerate(devices):
        assert {rows.device for rows in stored(prefix, layer).values()} == {device}
        assert prefix.layer(layer)[1].bias.device == device
