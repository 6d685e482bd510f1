"""What each method chooses of a small video, and how rankings fill a budget."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.evaluation.methods import (
    METHODS,
    Budget,
    CellMethod,
    Prices,
    Ranking,
    RowMethod,
    fill,
)
from batch.evaluation.methods.bitmod import BitMoD
from batch.evaluation.methods.centred_keys import CentredKeys
from batch.evaluation.methods.curve_stream import CurveStream
from batch.evaluation.methods.dtd import DTD
from batch.evaluation.methods.fastvid import FastVID
from batch.evaluation.methods.feature_method import FeatureMethod, Kept
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.holitom import HoliTom
from batch.evaluation.methods.kvmerger import KVMerger
from batch.evaluation.methods.kvzip import KVzip
from batch.evaluation.methods.prefixkv import PrefixKV
from batch.evaluation.methods.razor_attention import RazorAttention
from batch.evaluation.methods.row_method import Attention, Eviction, Queries, Rows
from batch.evaluation.methods.sali_cache import SaliCache
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.soft_prune import SoftPrune
from batch.evaluation.methods.sparse_frames import SparseFrames
from batch.evaluation.methods.streaming_tom import StreamingTOM
from batch.evaluation.methods.think import ThinK
from batch.evaluation.methods.tome import ToMe
from batch.evaluation.methods.vidcom2 import VidCom2
from batch.evaluation.methods.vidkv import VidKV
from batch.evaluation.methods.zipcache import ZipCache
from batch.video import Geometry
from cachefmt.tiers import STORED_TIERS, Tier
from tests.evaluation.methods.names import name
from tests.manifests import make_manifest, random_pictures

GEOMETRY = Geometry(height_px=8, width_px=8, rows=2, columns=2)
SAMPLES, CELLS = 6, 4
SEPARATORS = np.ones(SAMPLES, np.int64)
TOKENS = Prices(token=dict.fromkeys(STORED_TIERS, 1), fixed=2, separators=SEPARATORS)
BYTES = Prices(
    token={Tier.FP16: 16, Tier.INT8: 8, Tier.INT4: 4}, fixed=32, separators=16 * SEPARATORS
)

TIERS = ["F84.", "4444", "4444", "8F.4", "4444", "44F8"]
"""Of the known video: FP16, INT8, INT4, nothing; samples 1, 2 and 4 are pointers."""
CHANGE = [[0, 0, 0, 0], [3, 2, 0, 0], [0, 0, 4, 0], [9, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 8]]
"""Of its cells, in twentieths."""
AS_IT_IS = {
    "full": ["FFFF", "FFFF", "FFFF", "FFFF", "FFFF", "FFFF"],
    "klt standard": ["FFFF", "FFFF", "FFFF", "FFFF", "FFFF", "FFFF"],
    "klt small": ["FFFF", "FFFF", "FFFF", "FFFF", "FFFF", "FFFF"],
    "sali-cache paper": ["F84.", "....", "....", "8F.4", "....", "44F8"],
    "sali-cache default": ["F84.", "....", "....", "8F.4", "....", "44F8"],
    "uniform int8": ["8888", "8888", "8888", "8888", "8888", "8888"],
    "uniform int4": ["4444", "4444", "4444", "4444", "4444", "4444"],
    "token-drop": ["FFFF", "FF..", "..F.", "F...", ".F..", "...F"],
}
"""What methods that need no budget store of the known video."""
WITHIN_19_TOKENS = {
    "sali-cache paper": ["F844", "4...", "....", "8F44", "....", "44F8"],
    "sali-cache default": ["F844", "4...", "....", "8F44", "....", "44F8"],
    "uniform int8": ["8888", "8...", "8888", "....", "....", "8888"],
    "uniform int4": ["4444", "4...", "4444", "....", "....", "4444"],
    "sparse-frames": ["FFFF", "F...", "FFFF", "....", "....", "FFFF"],
    "token-drop": ["FFFF", "FFF.", "..F.", "F...", ".F..", "...F"],
    "salient-cells": ["..FF", "..FF", "..FF", "..FF", "..FF", "...F"],
    "random": ["..FF", "F.F.", "F.FF", "....", "..F.", "FFFF"],
}
"""Text takes 2 of them, a sample's separator 1: three samples whole, and one cell of a fourth."""
OF_40_ROWS = {
    "sliding-window": (4, [36, 37, 38, 39]),
    "streaming-llm": (7, [0, 1, 2, 3, 37, 38, 39]),
    "videoscan": (4, [0, 13, 26, 39]),
    "h2o": (4, [7, 20, 38, 39]),
    "h2o normalised": (2, [20, 39]),
    "snapkv": (35, [5, 6, 7, *range(8, 40)]),
    "scissorhands": (12, [7, 20, *range(30, 40)]),
    "dapq": (5, [0, 5, 6, 7, 8]),
    "dapq one ranking": (5, [0, 5, 6, 7, 8]),
    "prefixkv": (3, [0, 7, 20]),
    "kvzip": (3, [0, 7, 20]),
    "kvzip one ranking": (3, [0, 7, 20]),
    "keydiff": (2, [7, 20]),
    "infinipot-v": (12, [0, 1, 7, 13, 20, 26, *range(28, 33), 39]),
}
"""How many rows may stay, and which do, of those that `known_rows` gives."""


def manifest(
    difference: NDArray[np.float32] | None = None,
    saliency: NDArray[np.float32] | None = None,
    source: list[int] | None = None,
    tier: NDArray[np.uint8] | None = None,
) -> Manifest:
    made = make_manifest(random_pictures(SAMPLES, GEOMETRY), GEOMETRY, tier=tier, source=source)
    changed = {"difference": difference, "saliency": saliency}
    given = {signal: values for signal, values in changed.items() if values is not None}
    return replace(made, signals=replace(made.signals, **given))


def known_video() -> Manifest:
    tier = np.array([["F84.".index(cell) for cell in sample] for sample in TIERS], np.uint8)
    difference = np.array(CHANGE, np.float32) / 20
    return manifest(difference, ramp(1), tier=tier, source=[0, 0, 0, 3, 3, 5])


def stored(
    method: CellMethod, video: Manifest, prices: Prices = TOKENS, amount: int | None = None
) -> Manifest:
    unit = "bytes" if prices is BYTES else "tokens"
    budget = None if amount is None else Budget(amount=amount, unit=unit)
    return method.choose(video, [b"png"] * SAMPLES, prices, budget)


def drawn(video: Manifest) -> list[str]:
    return ["".join("F84."[tier] for tier in sample) for sample in video.tier]


def known_rows(*observed: Queries) -> Rows:
    """Text and three samples of 12 cells and a separator, in one head of one layer.

    Row 7 got the most attention and 20 the next; their keys are unlike all others, which are
    alike; the value of row 30 is the largest.
    """
    key, value = torch.zeros(1, 40, 1, 4), torch.ones(1, 40, 1, 4)
    key[..., 0] = 1
    key[:, 7], key[:, 20] = torch.tensor([-1.0, 0, 0, 0]), torch.tensor([0.0, 1, 0, 0])
    value[:, 30] = 5
    weight, weak = torch.zeros(1, 1, 40), torch.ones(1, 1, 40)
    weight[..., 7], weight[..., 20] = 3.0, 2.0
    weak[..., 7], weak[..., 20] = 0.2, 0.5
    numbers = torch.arange(-1, 39)
    cell = torch.where(numbers % 13 == 12, -1, numbers % 13)
    return Rows(
        key=key,
        value=value,
        attention={
            queries: Attention(
                weak if queries.of == "weak" else weight,
                torch.tensor([[[4.0, 3, 2, 1]]]),
                torch.ones(1, 1),
            )
            for queries in observed
        },
        sample=torch.where(numbers < 0, -1, numbers // 13),
        cell=torch.where(numbers < 0, -1, cell),
    )


def kept(method: RowMethod, count: int) -> list[int]:
    times = method.store(known_rows(*method.observed), count).times
    assert times is not None
    return times[0, 0].nonzero()[:, 0].tolist()


def ramp(axis: int) -> NDArray[np.float32]:
    """0.1, 0.2, ... along samples (0) or cells (1)."""
    steps = np.indices((SAMPLES, CELLS))[axis]
    return ((steps + 1) / 10).astype(np.float32)


CELL_METHODS = [method for method in METHODS if isinstance(method, CellMethod)]
EVICTIONS = [method for method in METHODS if isinstance(method, Eviction)]


@pytest.mark.parametrize("method", [m for m in CELL_METHODS if not m.needs_budget], ids=name)
def test_a_method_as_it_is_stores_the_cells_it_is_known_to(method: CellMethod) -> None:
    assert drawn(stored(method, known_video())) == AS_IT_IS[name(method)]


@pytest.mark.parametrize("method", [m for m in CELL_METHODS if m.takes_budget], ids=name)
def test_a_method_spends_a_budget_on_the_cells_it_is_known_to(method: CellMethod) -> None:
    assert drawn(stored(method, known_video(), amount=19)) == WITHIN_19_TOKENS[name(method)]


@pytest.mark.parametrize("method", EVICTIONS, ids=name)
def test_a_method_keeps_the_rows_it_is_known_to(method: Eviction) -> None:
    count, rows = OF_40_ROWS[name(method)]
    assert kept(method, count) == rows


def test_a_rest_that_holds_no_whole_frame_goes_to_a_part_of_one() -> None:
    video = stored(SparseFrames(), manifest(), amount=2 + 2 * (CELLS + 1) + 3)
    assert sorted((video.tier == Tier.FP16).sum(axis=1).tolist()) == [0, 0, 0, 2, 4, 4]


def test_ours_spends_bytes_on_the_most_salient_once_every_cell_is_there() -> None:
    everything_at_int4 = 32 + SAMPLES * (16 + 4 * CELLS)
    saliency = ramp(1)
    video = stored(SaliCache(), manifest(saliency=saliency), BYTES, everything_at_int4 + 4 * 3)
    assert np.argwhere(video.tier == Tier.INT8).tolist() == [[0, 3], [1, 3], [2, 3]]
    assert (video.tier <= Tier.INT4).all()


def test_ours_without_a_budget_is_what_the_manifest_says() -> None:
    video = manifest(ramp(0), source=[0, 0, 2, 2, 4, 5])
    assert stored(SaliCache(), video) is video


def test_what_does_not_fit_is_passed_over_for_what_does() -> None:
    dear, cheap = np.arange(0, 8), np.arange(8, 24)
    rankings = [Ranking(Tier.FP16, dear), Ranking(Tier.INT4, cheap)]
    tier = fill(rankings, (SAMPLES, CELLS), BYTES, Budget(amount=32 + 16 + 16 + 12, unit="bytes"))
    assert (tier == Tier.FP16).sum() == 1
    assert (tier == Tier.INT4).sum() == 0  # 12 bytes do not open another sample
    tier = fill(rankings[::-1], (SAMPLES, CELLS), BYTES, Budget(amount=32 + 16 + 28, unit="bytes"))
    assert (tier == Tier.INT4).sum() == 3


def test_a_budget_below_the_text_is_refused_with_what_the_text_takes() -> None:
    with pytest.raises(BatchError, match="which takes 3"):
        stored(SparseFrames(), manifest(), amount=2)


@pytest.mark.parametrize("amount", [0, -1])
def test_a_budget_is_at_least_one(amount: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        Budget(amount=amount, unit="tokens")


def test_snapkv_keeps_its_window_and_the_neighbours_of_what_it_looked_at() -> None:
    assert kept(SnapKV(window=3), 8) == [5, 6, 7, 8, 9, 37, 38, 39]


def test_a_budget_shorter_than_the_window_keeps_its_end() -> None:
    assert kept(SnapKV(window=8), 3) == [37, 38, 39]


def several(weight: torch.Tensor, **states: torch.Tensor) -> Rows:
    """Rows of text under this attention [layers, kv_heads, tokens], whatever is observed."""
    layers, heads, tokens = weight.shape
    drawn = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, layers, tokens, heads, 4, generator=drawn)
    seen = Attention(weight, torch.ones(layers, heads, 4), weight[..., 0])
    kinds = [Queries(), Queries("neutral"), Queries("again", of="max")]
    given = {"key": key, "value": value, **states}
    return Rows(**given, attention=dict.fromkeys(kinds, seen))


def test_layers_and_heads_decide_by_themselves_or_together() -> None:
    weight = torch.zeros(2, 2, 40)
    for layer in range(2):
        for head in range(2):
            weight[layer, head, 10 * layer + head] = 1.0
    weight[:, :, 30] = 0.9
    alone = H2O().chosen(several(weight), 2)
    assert [alone[layer, head].nonzero()[0].item() for layer, head in np.ndindex(2, 2)] == [
        *(0, 1, 10, 11)
    ]
    together = KVzip(shared=True).chosen(several(weight), 1)
    assert together.nonzero()[:, 2].tolist() == [30] * 4


def test_prefixkv_gives_rows_to_the_layer_whose_attention_is_spread() -> None:
    weight = torch.full((2, 1, 10), 0.1)
    weight[0, 0] = torch.tensor([0.91, *[0.01] * 9])
    chosen = PrefixKV().chosen(several(weight), 4)
    assert chosen.sum(-1).flatten().tolist() == [1, 7]


def test_razor_attention_spares_the_head_that_repeats_and_sums_up_what_others_drop() -> None:
    weight = torch.zeros(2, 2, 10)
    weight[1, 0, 0] = 1.0
    rows = several(weight)
    held = RazorAttention().store(rows, 6)
    assert held.times is not None
    assert held.times[1, 0].tolist() == [1] * 10
    assert (held.times > 0).sum(-1).flatten().tolist() == [5, 5, 10, 4]
    assert held.times.sum(-1).flatten().tolist() == [10] * 4
    assert held.times[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 6, 0, 0]
    mean = rows.value[0, 4:, 0].mean(0)
    torch.testing.assert_close(held.value[0, 7, 0], mean, atol=1e-3, rtol=1e-3)


def test_kvmerger_makes_one_row_of_a_run_at_its_pivot() -> None:
    one, other, last = torch.eye(4)[:3]
    key = torch.stack([one, one, other, other, other, last])[None, :, None]
    weight = torch.tensor([[[0.1, 0.2, 0.3, 0.9, 0.1, 0.5]]])
    held = KVMerger().store(several(weight, key=key, value=key), 3)
    assert held.times is not None
    assert held.times[0, 0].tolist() == [0, 2, 0, 3, 0, 1]
    torch.testing.assert_close(held.key[0, [1, 3, 5], 0], torch.eye(4)[:3])


def test_kvmerger_through_time_joins_what_a_cell_was_and_is() -> None:
    rows = known_rows(Queries("neutral"))
    method = KVMerger(through_time=True, shared=True)
    held = method.store(rows, 40 - 2 * 11)
    assert held.times is not None
    times = held.times[0, 0]
    assert times[[0, 13, 26, 39]].tolist() == [1] * 4
    # Cell 6 was another thing in each of the three samples.
    assert times[[7, 20, 33]].tolist() == [1, 1, 1]
    assert int((times == 3).sum()) == 11
    assert times.sum() == 40


def test_soft_prune_leaves_a_row_for_every_sample_it_drops() -> None:
    rows = known_rows()
    held = SoftPrune().store(rows, 1 + 13 + 2)
    assert held.times is not None
    times = held.times[0, 0]
    assert times[:14].tolist() == [1] * 14
    assert times.nonzero()[14:, 0].tolist() == [20, 33]
    assert times[[20, 33]].tolist() == [13, 13]
    torch.testing.assert_close(held.value[0, 33], rows.value[0, 27:].mean(0), atol=1e-2, rtol=0)


def test_vidkv_stores_exactly_what_its_codes_can_say() -> None:
    drawn = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (1, 64, 2, 8), generator=drawn) * 2.0 - 1
    spectrum = torch.complex(
        torch.cat([signs[..., :2], signs[..., 2:3]], -1),
        torch.cat([0 * signs[..., :1], signs[..., 3:4], 0 * signs[..., :1]], -1),
    )
    narrow = torch.fft.irfft(spectrum, n=4, norm="ortho")
    wide = torch.randint(0, 4, (1, 64, 2, 4), generator=drawn) * 16.0
    key = torch.cat([wide, narrow], dim=-1)
    held = VidKV().store(several(torch.ones(1, 2, 64), key=key, value=signs), 64)
    torch.testing.assert_close(held.key, key, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(held.value, signs)


def test_zipcache_is_closer_where_attention_was() -> None:
    weight = torch.rand(1, 2, 128, generator=torch.Generator().manual_seed(1))
    rows = several(weight * (128 - torch.arange(128)))
    held = ZipCache().store(rows, 128)
    error = (held.key - rows.key).square().sum(-1) + (held.value - rows.value).square().sum(-1)
    salient = weight.mean(1)[0].argsort(descending=True)
    assert 4 * error[0, salient[:76]].mean() < error[0, salient[78:]].mean()


def test_think_leaves_out_the_channels_that_change_no_score() -> None:
    rows = known_rows(Queries("neutral"))
    key = torch.tensor([1.0, 3, 1, 1]) * torch.ones_like(rows.key)
    held = ThinK(share=0.5).store(replace(rows, key=key), 40)
    assert held.key[0, 5, 0].tolist() == [1, 3, 0, 0]


def test_bitmod_stores_exactly_what_is_on_one_of_its_grids() -> None:
    grids = torch.tensor([[-4.0, -2, -1, 0, 1, 2, 4, extra] for extra in (3, -3, 6, -6)])
    states = grids.T.repeat(8, 1)[None, :, None] / 2
    held = BitMoD().store(several(torch.ones(1, 1, 64), key=states, value=states), 64)
    torch.testing.assert_close(held.key, states)


def test_centred_keys_spend_no_bits_on_what_all_keys_share() -> None:
    generator = torch.Generator().manual_seed(0)
    own, shared = torch.rand(1, 40, 2, 64, generator=generator), torch.arange(64.0)
    rows = several(torch.ones(1, 2, 40), key=own + shared, value=own + shared)
    held = CentredKeys().store(rows, 40)
    assert (held.key - rows.key).abs().max() < 0.6 / 15
    assert (held.value - rows.value).abs().max() > 1


def kept_cells(method: FeatureMethod, features: torch.Tensor, amount: int) -> Kept:
    """Of features [samples, cells, hidden] within so many tokens, text and separators apart."""
    samples = len(features)
    prices = Prices(
        token=dict.fromkeys(STORED_TIERS, 1), fixed=0, separators=np.zeros(samples, np.int64)
    )
    return method.keep(features, prices, Budget(amount=amount, unit="tokens"))


def still(samples: int, cells: int = 8) -> torch.Tensor:
    """Features of a film in which nothing moves, [samples, cells, 16]."""
    drawn = torch.randn(1, cells, 16, generator=torch.Generator().manual_seed(0))
    return drawn.expand(samples, -1, -1).clone()


def test_dtd_keeps_the_first_sample_and_what_changed() -> None:
    features = still(3)
    features[1:, 5] = -features[1:, 5]
    found = kept_cells(DTD(), features, 9).is_kept
    assert found[0].all()
    assert found[1:].nonzero().tolist() == [[0, 5]]


def test_streaming_tom_gives_every_sample_as_much_what_changed_first() -> None:
    features = still(4)
    features[2, 3], features[2, 6] = -features[1, 3], -features[1, 6]
    found = kept_cells(StreamingTOM(), features, 8).is_kept
    assert found.sum(1).tolist() == [2, 2, 2, 2]
    assert found[2].nonzero()[:, 0].tolist() == [3, 6]


def test_holitom_merges_what_is_still_into_the_first_sample() -> None:
    features = still(4)
    features[2:, 3] = -features[2:, 3]
    features[3, :3] *= 3
    found = kept_cells(HoliTom(cut=-1.0), features, 10)
    assert found.is_kept.sum(1).tolist() == [8, 0, 1, 1]
    assert found.is_kept[2:, 3].all()
    torch.testing.assert_close(found.features[0, 0], features[0, 0] * 1.5)


def test_fastvid_keeps_its_anchors() -> None:
    found = kept_cells(FastVID(), still(6), 16)
    assert found.is_kept.all(1).tolist() == [True, False, False, False, True, False]


def test_vidcom2_gives_more_to_the_sample_that_is_unlike_the_video() -> None:
    features = still(5)
    features[3] = -features[3]
    counts = kept_cells(VidCom2(), features, 15).is_kept.sum(1).tolist()
    assert counts[3] == max(counts) == 8
    assert sum(counts) == 15


def test_curve_stream_keeps_the_samples_at_which_the_way_turns() -> None:
    steps = torch.eye(16)[[0, 0, 0, 1, 1, 1]]
    way = torch.cat([torch.zeros(1, 16), steps.cumsum(0)])
    found = kept_cells(CurveStream(), still(7) + way[:, None], 24).is_kept
    assert found.all(1).nonzero()[:, 0].tolist() == [0, 3, 6]


def test_tome_makes_one_of_the_two_cells_that_are_alike_and_counts_it_twice() -> None:
    features = still(2)
    features[:, 5] = 2 * features[:, 2]
    found = kept_cells(ToMe(), features, 14)
    assert (~found.is_kept).nonzero().tolist() == [[0, 5], [1, 5]]
    assert found.times[0].tolist() == [1, 1, 2, 1, 1, 0, 1, 1]
    torch.testing.assert_close(found.features[0, 2], 1.5 * features[0, 2])
