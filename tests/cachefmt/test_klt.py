"""The transform codec keeps its bound, decodes alone, and refuses what it did not write."""

import struct

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from cachefmt.codecs import basis as bases
from cachefmt.codecs import klt
from cachefmt.codecs.basis import Basis, Moments
from cachefmt.codecs.symbols import (
    ALPHABETS,
    SMALL,
    Alphabet,
    DecodeError,
    Head,
    compress,
    decompress,
    join,
    share_bytes,
    split,
    take_apart,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FILM = (3, 2, 2, 8)


def film(
    samples: int, cells: int, *, seed: int = 0, change: float = 0.1
) -> tuple[Tensor, NDArray[np.int64]]:
    """Tokens of a film whose cells change slowly, [samples * cells, *FILM], and their places."""
    drawn = torch.Generator().manual_seed(seed)
    hidden = torch.randn(cells, 5, generator=drawn)[None]
    moved = change * torch.randn(samples, cells, 5, generator=drawn).cumsum(0)
    mixing = torch.randn(5, 96, generator=drawn)
    noise = 0.01 * torch.randn(samples, cells, 96, generator=drawn)
    x = (hidden + moved) @ mixing + 1 + noise
    return x.view(-1, *FILM), np.tile(np.arange(cells), samples)


def own_basis(x: Tensor, place: NDArray[np.int64], step: float = 0.1) -> Basis:
    return bases.unpack(bases.pack(x[place >= 0], step), tuple(x.shape[1:]))


def whole_basis(shape: tuple[int, int, int, int], seed: int = 0) -> Basis:
    """Orthonormal, with as many components as a token has numbers."""
    size = int(np.prod(shape))
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    turned = torch.linalg.qr(drawn).Q
    return Basis(
        shape=shape, mean=torch.zeros(1, size), scale=torch.ones(shape[:2]), directions=turned
    )


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Tensor, NDArray[np.int64], float]:
    """Rows of any shape, magnitude and offset, places in any order, and a step."""
    shape = (draw(st.integers(1, 3)), 2, draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5])))
    tokens = draw(st.integers(0, 12))
    place = draw(st.lists(st.integers(-1, 4), min_size=tokens, max_size=tokens))
    dtype = draw(st.sampled_from(DTYPES))
    magnitude = draw(st.sampled_from([0.0, 1e-8, 1e-3, 1.0, 300.0, 6e4]))
    offset = draw(st.sampled_from([0.0, 1e-6, -3.0, 1e3]))
    drawn = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = (torch.rand(tokens, *shape, generator=drawn) * 2 - 1) * magnitude + offset
    step = draw(st.sampled_from([0.02, 0.7, 1.0, 30.0, 1e5]))
    return x.clamp(-6e4, 6e4).to(dtype), np.array(place, np.int64), step


@given(blocks())
@settings(deadline=None)
def test_each_token_is_within_the_stated_bound(
    block: tuple[Tensor, NDArray[np.int64], float],
) -> None:
    x, place, step = block
    basis = whole_basis(tuple(x.shape[1:]))
    data = klt.encode(x.float(), basis, step=step, place=place)
    found = klt.decode(data, basis, place=place, dtype=torch.float32)
    coded = torch.from_numpy(place >= 0)
    true = basis.analyse(x[coded], place[place >= 0])
    error = (basis.analyse(found[coded], place[place >= 0]) - true).norm(dim=1)
    bound = klt.LARGEST_ERROR * step * basis.components**0.5 + 2**-17 * true.norm(dim=1)
    assert bool((error <= bound).all())
    assert torch.equal(found[~coded], x[~coded].float())


def test_a_film_is_small_because_cells_are_predicted_by_those_before() -> None:
    x, place = film(samples=12, cells=16)
    basis = own_basis(x, place)
    data = klt.encode(x, basis, step=0.1, place=place)
    strangers = klt.encode(x, basis, step=0.1, place=np.arange(len(x)))
    assert len(data) < 0.7 * len(strangers)
    found = klt.decode(data, basis, place=place, dtype=torch.float32)
    assert float((found - x).square().mean()) < 0.01 * float(x.square().mean())


def test_a_cell_that_stays_costs_next_to_nothing() -> None:
    x, place = film(samples=1, cells=16)
    basis = own_basis(x, place)
    once = klt.encode(x, basis, step=0.1, place=place)
    often = klt.encode(x.repeat(50, 1, 1, 1, 1), basis, step=0.1, place=np.tile(place, 50))
    assert len(often) < len(once) + 60
    found = klt.decode(often, basis, place=np.tile(place, 50), dtype=torch.float16)
    assert torch.equal(found[-16:], found[-32:-16])


def test_errors_do_not_grow_along_a_film() -> None:
    x, place = film(samples=200, cells=2, change=0.02)
    basis = whole_basis(FILM)
    found = klt.decode(
        klt.encode(x, basis, step=0.5, place=place), basis, place=place, dtype=torch.float32
    )
    error = (found - x).flatten(1).norm(dim=1)
    assert float(error.max()) <= klt.LARGEST_ERROR * 0.5 * basis.components**0.5
    assert float(error[-20:].mean()) < 2 * float(error[:20].mean())


def test_exact_rows_are_kept_bit_by_bit_and_predict_nobody() -> None:
    x, place = film(samples=3, cells=4)
    place[[0, 5, 6]] = -1
    basis = own_basis(x, place)
    for dtype in DTYPES:
        data = klt.encode(x.to(dtype), basis, step=0.1, place=place)
        found = klt.decode(data, basis, place=place, dtype=dtype)
        assert torch.equal(found[[0, 5, 6]], x[[0, 5, 6]].to(dtype))
    alone = klt.encode(x[place >= 0], basis, step=0.1, place=place[place >= 0])
    found = klt.decode(alone, basis, place=place[place >= 0], dtype=torch.float32)
    data = klt.encode(x, basis, step=0.1, place=place)
    assert torch.equal(found, klt.decode(data, basis, place=place, dtype=torch.float32)[place >= 0])


def test_a_block_of_no_tokens_or_constants_is_a_block() -> None:
    basis = whole_basis((1, 2, 1, 2))
    nothing = torch.empty(0, 1, 2, 1, 2)
    none = np.empty(0, np.int64)
    data = klt.encode(nothing, basis, step=1.0, place=none)
    assert klt.decode(data, basis, place=none, dtype=torch.float16).shape == nothing.shape
    constant = torch.full((5, *FILM), 2.0)
    own = own_basis(constant.repeat(100, 1, 1, 1, 1), np.zeros(500, np.int64))
    assert 1 <= own.components < 10  # one, and what float32 leaves of the others
    data = klt.encode(constant, own, step=0.1, place=np.zeros(5, np.int64))
    found = klt.decode(data, own, place=np.zeros(5, np.int64), dtype=torch.float32)
    assert float((found - constant).abs().max()) < 0.1


def test_a_basis_that_is_where_it_is_wanted_is_worked_out_once() -> None:
    basis = whole_basis(FILM)
    assert basis.to("cpu").analysis is basis.analysis
    assert basis.to("meta").mean.is_meta


def test_a_layer_that_is_always_zero_divides_by_nothing() -> None:
    x, place = film(samples=2, cells=4)
    x[:, 1, 0] = 0
    basis = own_basis(x, place)
    assert bool(basis.synthesis.isfinite().all() & basis.analysis.isfinite().all())
    zeros = torch.zeros_like(x)
    assert own_basis(zeros, place).components == 0
    data = klt.encode(zeros, own_basis(zeros, place), step=0.1, place=place)
    found = klt.decode(data, own_basis(zeros, place), place=place, dtype=torch.float32)
    assert torch.equal(found, zeros)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, 1e9])
def test_numbers_that_steps_cannot_count_are_refused(bad: float) -> None:
    x = torch.zeros(4, 1, 2, 1, 2)
    x[2, 0, 1, 0, 1] = bad
    with pytest.raises(ValueError, match="klt: "):
        klt.encode(x, whole_basis((1, 2, 1, 2)), step=0.1, place=np.zeros(4, np.int64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_basis_is_made_of_numbers_that_are_none(bad: float) -> None:
    x = torch.ones(4, 1, 2, 1, 2)
    x[2, 0, 1, 0, 1] = bad
    with pytest.raises(ValueError, match="klt: got NaN, infinity"):
        bases.pack(x, 0.1)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_a_block_that_steps_make_larger_is_kept_exactly(dtype: torch.dtype) -> None:
    x = (1000 * torch.randn(40, *FILM, generator=torch.Generator().manual_seed(0))).to(dtype)
    basis, place = whole_basis(FILM), np.arange(40) % 4
    data = klt.encode(x, basis, step=1e-3, place=place)
    assert len(data) <= x.numel() * x.element_size() * 257 // 256 + 300
    assert torch.equal(klt.decode(data, basis, place=place, dtype=dtype), x)
    with pytest.raises(DecodeError):
        klt.decode(data, basis, place=place[1:], dtype=dtype)


def test_what_does_not_fit_is_refused() -> None:
    basis = whole_basis((1, 2, 1, 2))
    x, place = torch.zeros(4, 1, 2, 1, 2), np.zeros(4, np.int64)
    with pytest.raises(ValueError, match=r"got rows \(4, 1, 2, 1, 2\) at places \(3,\)"):
        klt.encode(x, basis, step=1.0, place=place[:3])
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        klt.encode(x.double(), basis, step=1.0, place=place)
    for step in (0.0, -1.0, float("nan"), float("inf"), 1e-60):
        with pytest.raises(ValueError, match="step must be positive and finite"):
            klt.encode(x, basis, step=step, place=place)
    with pytest.raises(ValueError, match=r"a basis of \(1, 2, 1, 3\) has 4 components"):
        Basis(
            shape=(1, 2, 1, 3),
            mean=basis.mean,
            scale=basis.scale,
            directions=basis.directions,
        )


BLOCK = film(samples=4, cells=6)
BLOCK[1][:2] = -1
BASIS_BYTES = bases.pack(BLOCK[0], 0.2)
BLOCK_BYTES = klt.encode(BLOCK[0].half(), bases.unpack(BASIS_BYTES, FILM), step=0.2, place=BLOCK[1])


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that were cut, lengthened or changed at some positions."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(draw(st.sampled_from([data, data[:cut], data + data[cut:]])))


@given(mutated(BLOCK_BYTES))
@settings(deadline=None, max_examples=150)
def test_a_broken_block_is_refused_or_decodes_to_rows(data: bytes) -> None:
    basis = bases.unpack(BASIS_BYTES, FILM)
    try:
        found = klt.decode(data, basis, place=BLOCK[1], dtype=torch.float16)
    except DecodeError:
        return
    assert found.shape == BLOCK[0].shape


@given(mutated(BASIS_BYTES))
@settings(deadline=None, max_examples=150)
def test_a_broken_basis_is_refused_or_is_one(data: bytes) -> None:
    try:
        basis = bases.unpack(data, FILM)
    except DecodeError:
        return
    assert basis.vector == 96


def test_a_block_of_other_tokens_is_refused() -> None:
    basis = bases.unpack(BASIS_BYTES, FILM)
    for place in (BLOCK[1][:-6], np.append(BLOCK[1], 0), np.maximum(BLOCK[1], 0)):
        with pytest.raises(DecodeError):
            klt.decode(BLOCK_BYTES, basis, place=place, dtype=torch.float16)
    with pytest.raises(DecodeError):
        klt.decode(BLOCK_BYTES, basis, place=BLOCK[1], dtype=torch.float32)


def test_a_frame_that_claims_much_is_refused_before_memory_is_taken() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    with pytest.raises(DecodeError, match="a frame of 50000000 bytes, expected 10"):
        decompress(bomb, [4, 6])
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10))
    with pytest.raises(DecodeError, match="expected 10"):
        decompress(unsized, [4, 6])
    with pytest.raises(DecodeError, match="zstandard: "):
        decompress(compress([b"1234", b"567890"], 3) + b"more", [4, 6])
    liar = bytearray(zstandard.ZstdCompressor().compress(bytes(5)))
    liar[5] = 200
    with pytest.raises(DecodeError):
        decompress(bytes(liar), [200])
    assert [part.tobytes() for part in decompress(compress([b"1234", b""], 3), [4, 0])] == [
        b"1234",
        b"",
    ]


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.int32]:
    rows, columns = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32)))
    reach = draw(st.sampled_from([1, 2, 7, 8, 127, 128, 5000, 2**23 - 1]))
    decay = draw(st.sampled_from([1.0, 0.5, 0.1]))
    drawn_numbers = drawn.integers(-reach, reach, (rows, columns), endpoint=True)
    return (drawn_numbers * decay ** np.arange(columns)).astype(np.int32)


@given(matrices())
def test_symbols_of_any_size_come_back(symbols: NDArray[np.int32]) -> None:
    head, streams = split(symbols)
    assert Head.from_bytes(head.to_bytes(), symbols.shape[1]) == head
    assert [len(stream) for stream in streams] == head.stream_sizes(len(symbols))
    read = [np.frombuffer(stream, np.uint8) for stream in streams]
    found = join(head, read, len(symbols), lambda numbers: numbers)
    end = head.ends[-1]
    assert np.array_equal(found, symbols[:, :end])
    assert not symbols[:, end:].any()


def test_a_symbol_that_float32_does_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="symbols must be below 8388608, got 8388608"):
        split(np.array([[0, -(2**23)]], np.int32))


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_the_bytes_of_an_alphabet_are_its_digits(alphabet: Alphabet) -> None:
    every = np.arange(-alphabet.largest, alphabet.largest + 1)
    stream = np.frombuffer(share_bytes(every, alphabet), np.uint8)
    assert np.array_equal(take_apart(stream, alphabet, len(every), SMALL), every)
    digits = [2 if alphabet.base > 1 else 0, 1] + [0] * alphabet.per_byte
    first = share_bytes(np.array([-1, 1]), alphabet)[0]
    assert first == digits[0] + (digits[1] * alphabet.base if alphabet.per_byte > 1 else 0)
    with pytest.raises(DecodeError, match=f"a byte of 255 holds no {alphabet.per_byte} symbols"):
        take_apart(np.array([255], np.uint8), alphabet, 1, SMALL)


def test_a_sketch_finds_the_directions_that_the_covariance_has() -> None:
    x, place = film(samples=30, cells=10)
    exact, sketched = Moments(FILM), Moments(FILM, sketch=24)
    for moments in (exact, sketched):
        for start in range(0, 300, 70):
            moments.add(x[start : start + 70], place[start : start + 70])
    mean = exact.means()
    assert torch.allclose(mean[0], x.flatten(1).mean(0), atol=1e-5)
    scale = exact.scale(mean)
    assert torch.allclose(scale, (x - x.mean(0)).square().mean((0, 3, 4)).sqrt(), rtol=1e-4)
    variance, directions = exact.principal(mean, scale, 5)
    about, found = sketched.principal(mean, scale, 5)
    assert torch.allclose(about, variance, rtol=0.01)
    overlap = torch.linalg.svdvals(directions @ found.T)
    assert float(overlap.min()) > 0.99


def test_few_directions_that_are_looked_for_alone_are_those_of_all() -> None:
    drawn = torch.Generator().manual_seed(0)
    shape = (4, 2, 2, 64)
    energy = 2.0 ** -torch.arange(0, 20, 0.2)
    mixing = torch.linalg.qr(torch.randn(1024, 100, generator=drawn)).Q.T
    x = (torch.randn(600, 100, generator=drawn) * energy) @ mixing
    step = 0.1
    basis = bases.unpack(bases.pack(x.view(-1, *shape), step), shape)
    by = bases.spread(basis.scale, shape)
    scaled = (x / by).double()
    every = torch.linalg.eigvalsh(scaled.T @ scaled / 600).flip(0)
    assert basis.components == int((every >= step * step / 2).sum()) < 256
    rounding = (bases.NOISE * step) ** 2 * 1024 / 12
    assert left_out(basis, x) <= 1.01 * float(every[basis.components :].sum()) + rounding
    noisy = torch.cat([x, torch.randn(600, 1024, generator=drawn)])
    for tokens in (noisy, noisy[300:]):  # more than a vector has numbers, and fewer
        basis = bases.unpack(bases.pack(tokens.view(-1, *shape), step), shape)
        assert basis.components > 256  # too many to be looked for alone
        assert left_out(basis, tokens) < 3


def left_out(basis: Basis, x: Tensor) -> float:
    """Of the variance of divided numbers, what a basis does not give back of tokens."""
    nowhere = np.zeros(len(x), np.int64)
    found = basis.synthesise(basis.analyse(x.view(-1, *basis.shape), nowhere), nowhere)
    lost = (x - found.flatten(1)) / bases.spread(basis.scale, basis.shape)
    return float(lost.square().sum() / len(x))


def test_a_basis_of_no_tokens_is_one_without_components() -> None:
    assert bases.unpack(bases.pack(torch.zeros(0, *FILM), 0.2), FILM).components == 0


def test_each_place_has_its_mean() -> None:
    x, place = film(samples=30, cells=4)
    moments = Moments(FILM, places=6)
    moments.add(x, place)
    means = moments.means()
    flat = x.flatten(1)
    assert torch.allclose(means[2], flat[place == 2].mean(0), atol=1e-5)
    assert torch.allclose(means[5], flat.mean(0), atol=1e-5)  # nothing was there
    left = (flat - means[place]).view(-1, *FILM)
    assert torch.allclose(moments.scale(means), left.square().mean((0, 3, 4)).sqrt(), rtol=1e-3)
    variance, directions = moments.principal(means, torch.ones(3, 2), 96)
    true = torch.linalg.eigvalsh(left.flatten(1).T @ left.flatten(1) / len(x)).flip(0)
    assert torch.allclose(variance[:5], true[:5], rtol=1e-3)
    assert torch.allclose(directions @ directions.T, torch.eye(96), atol=1e-4)


def test_the_bytes_are_those_of_the_docstring_and_decode_to_the_same_rows_for_ever() -> None:
    basis = Basis(
        shape=(1, 2, 1, 2),
        mean=torch.tensor([[0.0, 0, 0, 1]]),
        scale=torch.tensor([[1.0, 2.0]]),
        directions=torch.eye(4),
    )
    streams = [
        bytes([0 + 2 * 3 + 1 * 9]),  # modes of tokens 0, 2, 3: from the mean, again, from before
        bytes([0 + 5 * 15, 0]),  # columns 0 and 1 of two rows: 0 3 and 0 0, their digits 0 5 0 0
        bytes([1 + 1 * 3]),  # column 2: 1 1, which saturate
        bytes([1, 0]) + bytes(6),  # larger by 1 and 0
        bytes([0x80] * 4 + [0x48] * 4),  # 9 in float16, four times
    ]
    head = struct.pack("<If5HI", 2, 1.0, 0, 2, 2, 2, 3, 2)
    data = head + zstandard.ZstdCompressor().compress(b"".join(streams))
    place = np.array([0, -1, 0, 0])
    x = torch.tensor([[0, 3, 4, 1], [9, 9, 9, 9], [0, 3, 4, 1], [0, 3, 6, 1]]).view(4, 1, 2, 1, 2)
    assert torch.equal(klt.decode(data, basis, place=place, dtype=torch.float16), x.half())
    written = klt.encode(x.half(), basis, step=1.0, place=place)
    assert written[: len(head)] == head
    assert zstandard.decompress(written[len(head) :]) == b"".join(streams)
