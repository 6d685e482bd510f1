"""The prefix holds what was appended, gives it back, and expands into a plain cache."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batch.kv import CACHE_KEYWORD, Prefix, TieredCache
from batch.kv.prefix import CHUNK_ROWS
from cachefmt import STORED_TIERS, CacheFile, CacheFileError, Tier, token_counts
from cachefmt.codecs import int4, plain
from cachefmt.layout import block_name
from tests.cachefmt.files import make_header, make_tables, write_file
from tests.kv.decoders import FAMILIES, ask, decoder, shape, store, tiered, tokens

SIZES = {tier: rows for rows, tier in enumerate(STORED_TIERS, 5)}
SHAPE = replace(
    shape(0), tokens=token_counts(SIZES), samples=4, stored_samples=3, rows=2, columns=3
)


def states(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, 2, 8, generator=generator).unbind(0)


def allocate(raw_dtype="F32"):
    return Prefix.allocate(replace(SHAPE, raw_dtype=raw_dtype), "cpu")


def fill(prefix, seed=0):
    """Append all rows."""
    for layer in range(prefix.shape.layers):
        for tier in STORED_TIERS:
            key, value = states(SIZES[tier], seed + 10 * layer + tier)
            raw = prefix.raw_dtype if tier is Tier.FP16 else key.dtype
            prefix.append(layer, tier, key.to(raw), value.to(raw))


def decoded(prefix, layer):
    """Key and value rows of a layer by tier."""
    chunks = [
        (chunk.key.clone(), chunk.value.clone())
        for part in prefix.layer(layer)
        for chunk in part.chunks(torch.float32, 4)
    ]
    return tuple(torch.cat(kind) for kind in zip(*chunks, strict=True))


def written(path, prefix, multiplicity=None):
    """Write a prefix into a plain file as prefill does, in blocks of a sample and two layers.

    multiplicity: of each row, by tier.
    """
    header, tables = make_header(prefix.shape), make_tables(prefix.shape)
    if multiplicity is not None:
        order = np.argsort(tables.tier, kind="stable")
        tables.multiplicity[order] = multiplicity.int().numpy()
    content, start = {}, dict.fromkeys(STORED_TIERS, 0)
    for number, rows in enumerate(tables.blocks(header.codec.block_samples)):
        counts = tables.counts(rows)
        for group, layers in enumerate(header.groups()):
            parts = {
                tier: [
                    part[layers.start : layers.stop]
                    for part in next(prefix.rows(tier, slice(start[tier], start[tier] + count)))
                ]
                for tier, count in counts.items()
            }
            content[block_name(number, group)] = plain.encode(parts)
        start = {tier: start[tier] + count for tier, count in counts.items()}
    return write_file(path, header, tables=tables, content=content)


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


def test_filled_rows_are_there_as_each_tiers_codec_encodes_them():
    prefix = allocate()
    fill(prefix)
    codes, scale, minimum = next(prefix.rows(Tier.INT4, slice(1, 4)))
    for kind, expected in enumerate(states(SIZES[Tier.INT4], 10 + Tier.INT4)):
        encoded = int4.encode(expected[1:4], prefix.shape.group_size)
        found = codes[1, kind], scale[1, kind], minimum[1, kind]
        assert all(map(torch.equal, found, encoded))
    stored = [next(prefix.rows(tier, slice(None))) for tier in STORED_TIERS]
    assert prefix.size_bytes == sum(part.nbytes for parts in stored for part in parts)


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
def test_a_plain_file_loads_bit_for_bit_without_a_model(tmp_path, raw_dtype):
    prefix = allocate(raw_dtype)
    fill(prefix)
    with CacheFile.open(written(tmp_path / "x.safetensors", prefix)) as file:
        loaded = Prefix.load(file, "cpu")
    assert (loaded.tokens, loaded.size_bytes) == (prefix.tokens, prefix.size_bytes)
    for tier in STORED_TIERS:
        pairs = zip(loaded.rows(tier, slice(None)), prefix.rows(tier, slice(None)), strict=True)
        assert all(torch.equal(*both) for parts in pairs for both in zip(*parts, strict=True))


@pytest.mark.needs_gpu
def test_a_file_on_cuda_holds_what_it_holds_on_the_cpu(tmp_path):
    prefix = allocate()
    fill(prefix)
    with CacheFile.open(written(tmp_path / "x.safetensors", prefix)) as file:
        here, there = Prefix.load(file, "cpu"), Prefix.load(file, "cuda")
    for tier in STORED_TIERS:
        pairs = zip(here.rows(tier, slice(None)), there.rows(tier, slice(None)), strict=True)
        for parts, copies in pairs:
            for part, copy in zip(parts, copies, strict=True):
                assert copy.is_cuda
                assert torch.equal(part, copy.cpu())


def test_a_damaged_block_is_not_loaded_and_the_error_names_it(tmp_path):
    prefix = allocate()
    fill(prefix)
    path = written(tmp_path / "x.safetensors", prefix)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with (
        CacheFile.open(path) as file,
        pytest.raises(CacheFileError, match=rf"{file.names[-1]} does not match its digest"),
    ):
        Prefix.load(file, "cpu")


def test_numbers_that_no_writer_writes_are_refused_by_the_name_of_their_block(tmp_path):
    prefix = allocate("F16")
    fill(prefix)
    next(prefix.rows(Tier.FP16, slice(None)))[0][2, 0, 4] = torch.nan
    with (
        CacheFile.open(written(tmp_path / "x.safetensors", prefix)) as file,
        pytest.raises(CacheFileError, match=r"block\.\d+\.01 \(layers 2 to 2\).*NaN"),
    ):
        Prefix.load(file, "cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expanded_cache_answers_as_the_tiers_do(tmp_path, family):
    model = decoder(family)
    over_tiers = tiered(model)
    count = sum(SIZES.values())
    tiers = torch.tensor([t for t in STORED_TIERS for _ in range(SIZES[t])])
    tiers = tiers[torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    prefix = allocate()
    store(over_tiers, prefix, tokens(count), torch.arange(count), (4, 5, count - 9), tiers)
    multiplicity = torch.randint(1, 5, (count,), generator=torch.Generator().manual_seed(2))
    question, positions = tokens(1, 6, seed=1), count + torch.arange(6)[None]
    without_counts = ask(over_tiers, TieredCache(prefix), question, positions)
    path = written(tmp_path / "x.safetensors", prefix, multiplicity)
    with CacheFile.open(path) as file:
        loaded = Prefix.load(file, "cpu")
        got = ask(over_tiers, TieredCache(loaded), question, positions)
        expanded = loaded.to_dynamic_cache(torch.float32)
    assert expanded.get_seq_length() == int(multiplicity.sum())
    with torch.no_grad():
        expected = model(question, **{CACHE_KEYWORD: expanded}, position_ids=positions).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - without_counts).abs().max() > 1e-2


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
        parts = [part for rows in prefix.layer(layer) for part in (*rows.key, *rows.value)]
        assert {part.device for part in parts} == {device}
        assert prefix.layer(layer)[1].bias.device == device
