"""What the Triton kernels must compute; `test_triton.py` runs this file, never pytest by itself.

With TRITON_INTERPRET=1 (before Triton is imported: so in a process of its own) the kernels run
interpreted on CPU tensors, without it compiled on CUDA. What is expected comes from the torch
path in float32 on the CPU.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from batch.evaluation.launches import count_launches
from batch.kv import (
    ATTENTIONS,
    Columns,
    LastQueries,
    Prefix,
    TieredCache,
    check_kernel,
    forward,
    merge,
)
from batch.kv import triton_attention as kernels
from batch.kv.attention import attend, attend_own, fold, unfold
from batch.kv.rows import StoredRows
from batch.kv.triton_rows import DECODE_INT4, DECODE_INT8
from cachefmt.layout import KINDS
from cachefmt.tiers import STORED_TIERS, Tier
from tests.kv import ptx
from tests.kv.decoders import ask, decoder, store, tiered, tokens
from tests.kv.decoders import shape as small_shape
from tests.kv.encoded import encoded, random, raw

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
RAW = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
QUANTISED = [tier.name for tier in STORED_TIERS if tier is not Tier.FP16]
ENCODINGS = (*RAW, *QUANTISED)
# (head_dim, group_size): the defaults of the families, groups across both halves, one channel.
GROUPED = [(32, 32), (32, 1), (64, 64), (80, 80), (80, 16), (96, 32), (128, 64), (128, 16)]
SHAPES = [
    *[("F32", head_dim, 1) for head_dim in (32, 64, 80, 128)],
    ("F16", 80, 1),
    ("BF16", 80, 1),
    *[("INT8", *shape) for shape in GROUPED[::2]],
    *[(encoding, *shape) for encoding in QUANTISED[1:] for shape in GROUPED],
    ("F32", 15, 1),
    ("INT8", 15, 5),
]
TOLERANCE = {
    torch.float32: 1e-5,
    torch.float16: torch.finfo(torch.float16).eps,
    # The interpreter of Triton 3.7 to 3.9 truncates to bfloat16: weights are low by half an eps.
    torch.bfloat16: torch.finfo(torch.bfloat16).eps,
}
"""Of the output, in units of the largest value; keys, values, weights are rounded to the dtype."""

KV_HEADS = 2


@pytest.fixture(scope="module", autouse=True)
def bfloat16_factors():
    """Triton 3.7 to 3.9 interpreted: `dot` multiplies bfloat16's bits as if they were integers."""
    if not INTERPRETED:
        yield
        return
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(factor):
        if factor.dtype.scalar != tl.bfloat16:
            return factor
        bits = factor.data.astype("uint32") << 16
        return TensorHandle(bits.view("float32"), tl.float32)

    dot = InterpreterBuilder.create_dot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            InterpreterBuilder,
            "create_dot",
            lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest),
        )
        yield


def counts(rows: int) -> Tensor:
    """A bias as multiplicities make it."""
    drawn = torch.randint(1, 9, (rows,), generator=torch.Generator().manual_seed(rows))
    return drawn.float().log()


def part_of(
    encoding: str, key: Tensor, value: Tensor, bias: Tensor | None = None, group_size: int = 1
) -> StoredRows:
    if encoding in RAW:
        return raw(key.to(RAW[encoding]), value.to(RAW[encoding]), bias)
    return encoded(Tier[encoding], key, value, bias, group_size)


def on_device(rows: StoredRows) -> StoredRows:
    return dataclasses.replace(
        rows,
        key=tuple(part.to(DEVICE) for part in rows.key),
        value=tuple(part.to(DEVICE) for part in rows.value),
        bias=None if rows.bias is None else rows.bias.to(DEVICE),
    )


def kernel(
    query: Tensor,
    *parts: StoredRows,
    past: int = 0,
    capacity: int = 3,
    padding: Sequence[int] | None = None,
    splits: int | None = None,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What the kernel says of queries [batch, heads, new, head_dim], and what the torch path says.

    Behind the parts each sequence has a suffix of random columns, `past` of them before the
    queries' own; what lies behind those must not be read.
    """
    batch, _, new, head_dim = query.shape
    seen, scaling = past + new, head_dim**-0.5
    key, value = random(2, batch, KV_HEADS, capacity, head_dim, seed=past + 9).to(query.dtype)
    key[:, :, seen:] = value[:, :, seen:] = math.nan
    hidden = torch.tensor([0] * batch if padding is None else padding, dtype=torch.int32)
    output, lse = kernels.attend_few(
        query.to(DEVICE),
        kernels.prepare(
            [on_device(part) for part in parts],
            kv_heads=KV_HEADS,
            head_dim=head_dim,
            device=torch.device(DEVICE),
            splits=splits,
        ),
        kernels.Suffix(
            key.to(DEVICE),
            value.to(DEVICE),
            torch.arange(past, seen, device=DEVICE),
            hidden.to(DEVICE),
        ),
        scaling=scaling,
    )
    assert output.shape == (batch, new, query.shape[1], head_dim)
    assert (output.dtype, lse.dtype) == (query.dtype, torch.float32)
    got = output.cpu().float().transpose(1, 2), lse.cpu()

    columns = torch.arange(seen)
    is_hidden = (columns > columns[past:, None])[None] | (columns < hidden[:, None, None])
    bias = torch.zeros(is_hidden.shape).masked_fill(is_hidden, -math.inf)[:, None]
    query, own = query.float(), (key[:, :, :seen].float(), value[:, :, :seen].float())
    expected = [attend_own(query, *own, bias, scaling=scaling)]
    if any(map(len, parts)):
        shared = attend(fold(query, KV_HEADS), parts, scaling=scaling)
        expected.append(tuple(unfold(one, batch, new) for one in shared))
    return got, merge(expected)


def assert_equal(got, expected, dtype: torch.dtype = torch.float32, size: float = 3.0) -> None:
    """size: about the largest value."""
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=tolerance * size)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-6, atol=tolerance * size)


def mixed(rows: Sequence[int], head_dim: int, group_size: int, dtype: str = "F32"):
    """A part of each tier, the quantised ones with a bias."""
    key, value = random(2, sum(rows), KV_HEADS, head_dim, seed=1)
    return [
        part_of(
            encoding, *states, None if encoding == dtype else counts(len(states[0])), group_size
        )
        for encoding, *states in zip(
            (dtype, *QUANTISED), key.split(rows), value.split(rows), strict=True
        )
    ]


@pytest.mark.parametrize("encoding", ["F16", *QUANTISED])
def test_a_tier_alone_equals_the_torch_path(encoding):
    key, value = random(2, 33, KV_HEADS, 32, seed=1)
    part = part_of(encoding, key, value, counts(33), 32)
    assert_equal(*kernel(random(1, KV_HEADS, 1, 32), part))


def test_all_tiers_and_padded_suffixes_equal_the_torch_path():
    """Groups of heads, several sequences and new columns, a split that ends within a tile."""
    query = random(2, 3 * KV_HEADS, 3, 32)
    parts = mixed((40, 70, 5), 32, 16)
    assert_equal(*kernel(query, *parts, past=7, capacity=13, padding=[0, 8], splits=2))


def test_without_stored_rows_the_suffix_is_all():
    assert_equal(*kernel(random(2, KV_HEADS, 2, 32), past=4, capacity=70, padding=[3, 0]))
    none = mixed((0, 0, 0), 32, 16)
    assert_equal(*kernel(random(1, KV_HEADS, 1, 32), *none, past=70, capacity=80))


def test_one_row_dropped_is_seen():
    """So the tolerances tell right from wrong."""
    query, (key, value) = random(1, KV_HEADS, 1, 32), random(2, 20, KV_HEADS, 32, seed=1)
    whole, _ = kernel(query, part_of("F32", key, value))
    _, without = kernel(query, part_of("F32", key[1:], value[1:]))
    for dtype in TOLERANCE:
        with pytest.raises(AssertionError):
            assert_equal(without, whole, dtype)


def test_a_query_that_sees_nothing_is_zero_and_weighs_nothing():
    (output, lse), _ = kernel(random(2, KV_HEADS, 1, 32), past=2, padding=[3, 0])
    assert not output[0].any()
    assert bool((lse[0] == -math.inf).all())
    assert bool(lse[1].isfinite().all())


def test_the_machines_instructions_decode_as_the_codecs_do():
    """The interpreter has no inline assembly: so every byte, by what the instructions mean."""
    generator = np.random.default_rng(1)
    code = np.arange(256, dtype=np.uint8)
    packed = np.stack([code, *generator.integers(0, 256, (3, 256), np.uint8)], -1)
    scale, minimum, high_scale, high_minimum = (
        generator.normal(0, 3, 256).astype(np.float16) for _ in range(4)
    )
    twice = [
        ptx.pairs(np.stack([one, one], -1)) for one in (scale, minimum, high_scale, high_minimum)
    ]
    given = [register for register in twice for _ in range(2)]
    bits = packed.view(np.uint32)[:, 0]
    for codes, found, step, floor in [
        (packed & 15, slice(0, 2), scale, minimum),
        (packed >> 4, slice(2, 4), high_scale, high_minimum),
    ]:
        decoded = [ptx.halves(one) for one in ptx.run(DECODE_INT4.value, 4, [bits, *given])[found]]
        expected = codes.astype(np.float64) * step[:, None] + floor[:, None]
        np.testing.assert_array_equal(np.concatenate(decoded, -1), expected.astype(np.float16))
    decoded = [ptx.halves(one) for one in ptx.run(DECODE_INT8.value, 2, [bits, *given[:2]])]
    expected = packed.view(np.int8).astype(np.float64) * scale[:, None]
    np.testing.assert_array_equal(np.concatenate(decoded, -1), expected.astype(np.float16))


@pytest.mark.long
@pytest.mark.parametrize(("encoding", "head_dim", "group_size"), SHAPES)
def test_every_encoding_and_shape_equals_the_torch_path(encoding, head_dim, group_size):
    # In float32 a tile is 16 queries x 32 rows: one and several, whole and ragged.
    for batch, group, new, rows, splits, bias in [
        (1, 1, 1, 1, None, counts(1)),
        (1, 5, 1, 75, 3, None),
        (2, 4, 2, 64, None, None),
        (1, 7, 3, 33, 1, counts(33)),
    ]:
        query = random(batch, group * KV_HEADS, new, head_dim)
        key, value = random(2, rows, KV_HEADS, head_dim, seed=rows)
        part = part_of(encoding, key, value, bias, group_size)
        assert_equal(*kernel(query, part, splits=splits))


@pytest.mark.long
@pytest.mark.parametrize("rows", list(itertools.product((0, 50, 64), repeat=3)))
def test_any_of_the_tiers_may_be_empty(rows):
    query = random(2, 2 * KV_HEADS, 2, 80)
    assert_equal(*kernel(query, *mixed(rows, 80, 16), past=5, capacity=80, padding=[0, 5]))


@pytest.mark.long
@pytest.mark.parametrize(("batch", "new"), [(1, 1), (3, 1), (1, 24), (16, 1), (5, 7)])
@pytest.mark.parametrize("group", [1, 3, 7])
def test_every_batch_and_group_equals_the_torch_path(batch, new, group):
    query = random(batch, group * KV_HEADS, new, 32)
    padding = [sequence % new for sequence in range(batch)]
    parts = mixed((30, 30, 30), 32, 32)
    assert_equal(*kernel(query, *parts, past=3, capacity=40, padding=padding))


@pytest.mark.long
@pytest.mark.parametrize(("queries", "head_dim"), [(1, 128), (20, 64)], ids=["decode", "question"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_half_precision_is_close_to_the_torch_path_in_float32(encoding, dtype, head_dim, queries):
    query = random(1, 4 * KV_HEADS, queries, head_dim).to(dtype)
    key, value = random(2, 131, KV_HEADS, head_dim, seed=1)
    part = part_of(encoding, key, value, counts(131), 64)
    assert_equal(*kernel(query, part, past=9, capacity=40), dtype)


@pytest.mark.long
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0])
def test_small_and_large_values_keep_their_precision(encoding, magnitude):
    query, (key, value) = random(1, KV_HEADS, 3, 32), random(2, 50, KV_HEADS, 32, seed=1)
    for dtype in (torch.float32, torch.float16):
        part = part_of(encoding, key, value * magnitude, group_size=32)
        got, expected = kernel(query.to(dtype), part)
        size = 3.0 * max(magnitude, 1.0)  # the suffix has values of about 1
        assert_equal(got, expected, dtype, size)


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["F32", *QUANTISED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_queries_do_not_overflow(encoding, dtype):
    """bfloat16 reaches further than float16, in which quantised rows are multiplied."""
    query, (key, value) = random(1, KV_HEADS, 3, 32), random(2, 70, KV_HEADS, 32, seed=1)
    part = part_of(encoding, key * 1e-4, value, group_size=32)
    # Beside scores of this size the suffix, whose keys are not small, decides; so it is hidden.
    got, expected = kernel((query * 1e6).to(dtype), part, splits=2, padding=[9])
    # Scores have the dtype's relative error, which is an absolute one of their exponentials.
    assert_equal(got, expected, dtype, size=300.0)


@pytest.mark.long
@pytest.mark.parametrize("splits", [1, 2, 7, 100])
def test_the_number_of_splits_does_not_matter(splits):
    query, (key, value) = random(1, 5 * KV_HEADS, 4, 80), random(2, 250, KV_HEADS, 80, seed=1)
    part = part_of("INT4", key, value, counts(250), 80)
    assert_equal(*kernel(query, part, splits=splits, past=130, capacity=140))


@pytest.mark.long
def test_rows_hidden_by_their_bias_weigh_nothing():
    query, (key, value) = random(1, KV_HEADS, 3, 32), random(2, 70, KV_HEADS, 32, seed=1)
    hidden = torch.arange(70) < 40  # a whole tile of 32 rows, and part of the next
    bias = torch.zeros(70).masked_fill(hidden, -math.inf)
    got, _ = kernel(query, part_of("INT8", key, value, bias, 32), splits=3)
    _, expected = kernel(query, part_of("INT8", key[~hidden], value[~hidden], None, 32))
    assert_equal(got, expected)


@pytest.mark.long
def test_queries_are_read_where_they_lie():
    query = random(2, 3, 2 * KV_HEADS, 64).transpose(1, 2)
    assert_equal(*kernel(query, *mixed((20, 20, 20), 64, 32)))


@pytest.mark.needs_gpu
def test_rows_beyond_2_to_the_31_elements_are_found():
    rows = (2**31 + 2**26) // (KV_HEADS * 64)
    query, (key, value) = random(1, KV_HEADS, 4, 64), random(2, 3, KV_HEADS, 64, seed=1)
    few = part_of("INT8", key, value, group_size=64)
    bias = torch.full((rows,), -math.inf)
    bias[-3:] = 0
    far = dataclasses.replace(
        on_device(few),
        bias=bias.to(DEVICE),
        **{
            kind: tuple(
                torch.cat([part.new_zeros(rows - 3, *part.shape[1:], device=DEVICE), part])
                for part in getattr(on_device(few), kind)
            )
            for kind in KINDS
        },
    )
    prepared = kernels.prepare([far], kv_heads=KV_HEADS, head_dim=64, device=torch.device(DEVICE))
    own = torch.zeros(1, KV_HEADS, 8, 64, device=DEVICE)
    suffix = kernels.Suffix(
        own, own, torch.arange(4, device=DEVICE), torch.tensor([9], dtype=torch.int32).to(DEVICE)
    )
    output, lse = kernels.attend_few(query.to(DEVICE), prepared, suffix, scaling=64**-0.5)
    shared = attend(fold(query, KV_HEADS), [few], scaling=64**-0.5)
    expected = tuple(unfold(one, 1, 4) for one in shared)
    assert_equal((output.cpu().transpose(1, 2), lse.cpu()), expected)


@pytest.mark.parametrize(
    ("kind", "broken", "message"),
    [
        ("bias", lambda _: torch.zeros(9, device=DEVICE), "bias: got"),
        ("value", lambda parts: (parts[0][:4], *parts[1:]), "value"),
        ("key", lambda parts: (parts[0], parts[1][:3], parts[2]), "key scale"),
        ("key", lambda parts: (*parts[:2], parts[2][:, :1]), "key minimum"),
        ("key", lambda parts: (parts[0].mT.contiguous().mT, *parts[1:]), "not contiguous"),
        ("key", lambda parts: (parts[0].view(torch.int8), *parts[1:]), "expected torch.uint8"),
        (
            "key",
            lambda parts: (parts[0], *(part[..., :1].clone() for part in parts[1:])),
            "groups of different sizes",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(kind, broken, message):
    key, value = random(2, 8, KV_HEADS, 32)
    rows = on_device(part_of("INT4", key, value, group_size=16))
    rows = dataclasses.replace(rows, **{kind: broken(getattr(rows, kind))})
    with pytest.raises(ValueError, match=message):
        kernels.prepare([rows], kv_heads=KV_HEADS, head_dim=32, device=torch.device(DEVICE))


def test_a_model_over_all_tiers_gives_the_same_logits():
    """On CUDA by the product's own choice; interpreted, it is told to."""
    model, rows = tiered(decoder("qwen2")), 60
    shape = dataclasses.replace(small_shape(20, 20, 20), group_size=4)
    prefix = Prefix.allocate(shape, "cpu")
    store(model, prefix, tokens(rows), torch.arange(rows), (30, 30), torch.arange(rows) % 3)
    multiplicity = torch.arange(20) % 3 + 1
    prefix.set_multiplicity(Tier.INT8, multiplicity)
    question, positions = tokens(2, 2, seed=1), rows + torch.arange(2).expand(2, -1)
    expected = ask(model, TieredCache(prefix), question, positions)

    if INTERPRETED:
        model.set_attn_implementation(ATTENTIONS["triton"])
    moved = Prefix.allocate(shape, DEVICE)
    for tier in STORED_TIERS:
        (parts,) = prefix.rows(tier, slice(0, 20))
        moved._place(0, tier, parts)  # the same codes, not other ones of decoded numbers
    moved.set_multiplicity(Tier.INT8, multiplicity)
    got = ask(model.to(DEVICE), TieredCache(moved), question.to(DEVICE), positions.to(DEVICE))
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-4)


def test_a_decode_step_adds_six_launches_a_layer_and_waits_for_nothing():
    """Two that write the suffix, the kernel and the merge; two for who looks at the queries."""
    model = tiered(decoder("llama")).to(DEVICE)
    prefix = Prefix.allocate(small_shape(8), DEVICE)
    ids, places = tokens(8).to(DEVICE), torch.arange(8, device=DEVICE)
    store(model, prefix, ids, places, [8])
    model.set_attn_implementation(ATTENTIONS["triton"])
    cache = TieredCache(prefix, LastQueries(1, 2), capacity=8)
    columns = Columns(
        torch.zeros(1, dtype=torch.int64, device=DEVICE),
        torch.zeros(1, dtype=torch.int32, device=DEVICE),
    )
    embedded = model.model.embed_tokens(ids[None, :1]).detach()

    def step() -> None:
        forward(model.model, embedded, places[None, :1], cache, columns=columns)

    step()  # what is done once for a prefix
    counted = count_launches(step, DEVICE)

    def nothing(module, query, *others, **kwargs):
        return torch.empty_like(query).transpose(1, 2), None

    AttentionInterface.register("nothing", nothing)
    model.set_attn_implementation("nothing")
    mask = torch.empty(1, 1, 1, 1, device=DEVICE)
    with torch.no_grad():
        own = count_launches(
            lambda: model.model(
                inputs_embeds=embedded,
                position_ids=places[None, :1],
                attention_mask=mask,
                use_cache=False,
            ),
            DEVICE,
        )
    added = counted.launches - own.launches
    assert added <= 6 * prefix.shape.layers + 1  # and where the observer writes, once
    assert counted.synchronisations == own.synchronisations == 0


def test_the_kernels_can_be_asked_for_where_they_run():
    check_kernel("triton", torch.device(DEVICE))
