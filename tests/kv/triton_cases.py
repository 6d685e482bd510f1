"""What the Triton kernels must compute; `test_triton.py` runs this file, never pytest by itself.

With TRITON_INTERPRET=1 (before Triton is imported: so in a process of its own) the kernels run
interpreted on CPU tensors, without it compiled on CUDA. What is expected comes from the torch
path in float32 on the CPU.
"""

import dataclasses
import math
import os

import pytest
import torch
from torch import Tensor

from batch.kv import ATTENTIONS, Prefix, TieredCache, attention, check_kernel, merge
from batch.kv.attention import attend
from batch.kv.rows import StoredRows
from batch.kv.triton_attention import attend_stored
from cachefmt.layout import KINDS
from cachefmt.tiers import STORED_TIERS, Tier
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


def kernel(query: Tensor, part: StoredRows, splits: int | None = None) -> tuple[Tensor, Tensor]:
    """What the kernel says, on the CPU."""
    output, lse = attend_stored(
        query.to(DEVICE), on_device(part), scaling=query.shape[-1] ** -0.5, splits=splits
    )
    assert output.dtype == lse.dtype == torch.float32
    return output.cpu(), lse.cpu()


def torch_path(query: Tensor, *parts) -> tuple[Tensor, Tensor]:
    return attend(query.float(), parts, scaling=query.shape[-1] ** -0.5)


def assert_equal(got, expected, dtype: torch.dtype = torch.float32, size: float = 3.0) -> None:
    """size: about the largest value."""
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=tolerance * size)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-6, atol=tolerance * size)


@pytest.mark.parametrize(("encoding", "head_dim", "group_size"), SHAPES)
def test_every_encoding_and_shape_equals_the_torch_path(encoding, head_dim, group_size):
    # In float32 a tile is 16 queries x 32 rows: one and several, whole and ragged.
    for folded, rows, splits, bias in [
        (1, 1, None, counts(1)),
        (5, 75, 3, None),
        (16, 64, None, None),
        (37, 33, 1, counts(33)),
    ]:
        query = random(KV_HEADS, folded, head_dim)
        key, value = random(2, rows, KV_HEADS, head_dim, seed=rows)
        part = part_of(encoding, key, value, bias, group_size)
        assert_equal(kernel(query, part, splits), torch_path(query, part))


@pytest.mark.parametrize(("folded", "head_dim"), [(5, 128), (130, 64)], ids=["decode", "prefill"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_half_precision_is_close_to_the_torch_path_in_float32(encoding, dtype, head_dim, folded):
    query = random(KV_HEADS, folded, head_dim).to(dtype)
    key, value = random(2, 131, KV_HEADS, head_dim, seed=1)
    part = part_of(encoding, key, value, counts(131), 64)
    assert_equal(kernel(query, part), torch_path(query, part), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_one_row_dropped_is_seen(dtype):
    """So the tolerances tell right from wrong."""
    query, (key, value) = random(KV_HEADS, 5, 64).to(dtype), random(2, 70, KV_HEADS, 64, seed=1)
    whole = torch_path(query, part_of("F32", key, value))
    without = kernel(query, part_of("F32", key[1:], value[1:]))
    with pytest.raises(AssertionError):
        assert_equal(without, whole, dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0])
def test_small_and_large_values_keep_their_precision(encoding, magnitude):
    query, (key, value) = random(KV_HEADS, 3, 32), random(2, 50, KV_HEADS, 32, seed=1)
    for dtype in (torch.float32, torch.float16):
        part = part_of(encoding, key, value * magnitude, group_size=32)
        got, expected = kernel(query.to(dtype), part), torch_path(query.to(dtype), part)
        assert_equal((got[0] / magnitude, got[1]), (expected[0] / magnitude, expected[1]), dtype)


@pytest.mark.parametrize("magnitude", [30.0, 1e3])
def test_large_scores_do_not_overflow(magnitude):
    query, (key, value) = random(KV_HEADS, 3, 32), random(2, 70, KV_HEADS, 32, seed=1)
    part = part_of("F32", key * magnitude, value)
    got, expected = kernel(query, part, 2), torch_path(query, part)
    # Scores have float32's relative error, which is an absolute one of their exponentials.
    assert_equal(got, expected, size=3.0 * magnitude)


@pytest.mark.parametrize("splits", [1, 2, 7, 100])
def test_the_number_of_splits_does_not_matter(splits):
    query, (key, value) = random(KV_HEADS, 20, 80), random(2, 250, KV_HEADS, 80, seed=1)
    part = part_of("INT4", key, value, counts(250), 80)
    assert_equal(kernel(query, part, splits), torch_path(query, part))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_rows_or_no_queries_weigh_nothing(encoding):
    query, key = random(KV_HEADS, 3, 32), random(0, KV_HEADS, 32)
    output, lse = kernel(query, part_of(encoding, key, key, group_size=32))
    assert output.shape == query.shape
    assert bool((output == 0).all())
    assert bool((lse == -math.inf).all())
    rows = random(4, KV_HEADS, 32)
    output, lse = kernel(query[:, :0], part_of(encoding, rows, rows, group_size=32))
    assert output.shape == (KV_HEADS, 0, 32)
    assert lse.shape == (KV_HEADS, 0)


def test_rows_hidden_by_their_bias_weigh_nothing():
    query, (key, value) = random(KV_HEADS, 3, 32), random(2, 70, KV_HEADS, 32, seed=1)
    hidden = torch.arange(70) < 40  # a whole tile of 32 rows, and part of the next
    bias = torch.zeros(70).masked_fill(hidden, -math.inf)
    got = kernel(query, part_of("INT8", key, value, bias, 32), splits=3)
    expected = torch_path(query, part_of("INT8", key[~hidden], value[~hidden], None, 32))
    assert_equal(got, expected)
    nothing = kernel(query, part_of("F16", key, value, torch.full((70,), -math.inf)), splits=2)
    assert bool((nothing[0] == 0).all())
    assert bool((nothing[1] == -math.inf).all())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_kernel_part_and_torch_parts_merge_into_the_whole(encoding):
    query, (key, value) = random(KV_HEADS, 6, 64), random(2, 90, KV_HEADS, 64, seed=1)
    bias = counts(90)
    parts = [
        part_of(encoding, key[at], value[at], bias[at], 64)
        for at in (slice(0, 40), slice(40, 41), slice(41, 90))
    ]
    partials = [kernel(query, parts[0]), torch_path(query, parts[1]), kernel(query, parts[2], 2)]
    assert_equal(merge(partials), torch_path(query, *parts))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_views_are_read_where_they_lie(encoding):
    """Rows and heads out of larger tensors, queries transposed."""
    query = random(9, KV_HEADS, 64).transpose(0, 1)
    key, value = random(2, 60, 5, 64, seed=1)
    whole = part_of(encoding, key, value, counts(60), 32)

    def views(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.to(DEVICE)[3:50:2, 1 : 1 + KV_HEADS] for part in parts)

    bias = whole.bias[3:50:2]
    rows = dataclasses.replace(
        whole, key=views(whole.key), value=views(whole.value), bias=bias.clone().to(DEVICE)
    )
    output, lse = attend_stored(query.to(DEVICE), rows, scaling=64**-0.5)
    copied = part_of(encoding, key[3:50:2, 1:3], value[3:50:2, 1:3], bias, 32)
    assert_equal((output.cpu(), lse.cpu()), torch_path(query, copied))


@pytest.mark.needs_gpu
def test_rows_beyond_2_to_the_31_elements_are_found():
    stride = 2**30 + 64
    query, (key, value) = random(KV_HEADS, 4, 64), random(2, 3, KV_HEADS, 64, seed=1)
    part = part_of("INT8", key, value, group_size=64)
    stored = on_device(part)
    far = torch.empty_strided((3, KV_HEADS, 64), (stride, 64, 1), dtype=torch.int8, device=DEVICE)
    rows = dataclasses.replace(stored, key=(far.copy_(stored.key[0]), *stored.key[1:]))
    output, lse = attend_stored(query.to(DEVICE), rows, scaling=64**-0.5)
    assert_equal((output.cpu(), lse.cpu()), torch_path(query, part))


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
            lambda parts: (*parts[:2], torch.stack((parts[2],) * 2, 1)[:, 0]),
            "its scale and of its minimum differ",
        ),
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
        attend_stored(random(KV_HEADS, 2, 32).to(DEVICE), rows, scaling=1.0)


def test_a_model_over_all_tiers_gives_the_same_logits(monkeypatch):
    """On CUDA by the product's own choice; interpreted, it is told to."""
    model, rows = tiered(decoder("qwen2")), 60
    shape = dataclasses.replace(small_shape(20, 20, 20), group_size=4)
    prefix = Prefix.allocate(shape, "cpu")
    store(model, prefix, tokens(rows), torch.arange(rows), (30, 30), torch.arange(rows) % 3)
    multiplicity = torch.arange(20) % 3 + 1
    prefix.set_multiplicity(Tier.INT8, multiplicity)
    question, positions = tokens(3, 4, seed=1), rows + torch.arange(4).expand(3, -1)
    expected = ask(model, TieredCache(prefix), question, positions)

    attended = []

    def counted(query, stored, *, scaling):
        attended.append(stored)
        return attend_stored(query, stored, scaling=scaling)

    monkeypatch.setattr(attention, "_attend_stored", lambda: counted)
    if INTERPRETED:
        model.set_attn_implementation(ATTENTIONS["triton"])
    layers = [
        {
            (part.tier, kind): tuple(rows.to(DEVICE) for rows in getattr(part, kind))
            for part in prefix.layer(layer)
            for kind in KINDS
        }
        for layer in range(shape.layers)
    ]
    moved = Prefix(shape, layers, is_filled=True)
    moved.set_multiplicity(Tier.INT8, multiplicity)
    got = ask(model.to(DEVICE), TieredCache(moved), question.to(DEVICE), positions.to(DEVICE))
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-4)
    assert len(attended) == 3 * shape.layers


def test_the_kernels_can_be_asked_for_where_they_run():
    check_kernel("triton", torch.device(DEVICE))
