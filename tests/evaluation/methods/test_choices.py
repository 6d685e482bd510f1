"""What each method looks at when it chooses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.analysis.manifest import Manifest
from batch.errors import BatchError
from batch.evaluation.methods import Budget, CellPolicy, Prices, Wish, fill
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.random_tokens import RandomTokens
from batch.evaluation.methods.sali_cache import SaliCache
from batch.evaluation.methods.sliding_window import SlidingWindow
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.sparse_frames import SparseFrames
from batch.evaluation.methods.streaming_llm import StreamingLLM
from batch.evaluation.methods.token_drop import TokenDrop
from batch.evaluation.methods.uniform_bits import UniformBits
from batch.video import Geometry
from cachefmt.tiers import STORED_TIERS, Tier
from tests.manifests import make_manifest, random_pictures

GEOMETRY = Geometry(height_px=8, width_px=8, rows=2, columns=2)
SAMPLES, CELLS = 6, 4
SEPARATORS = np.ones(SAMPLES, np.int64)
TOKENS = Prices(token=dict.fromkeys(STORED_TIERS, 1), fixed=2, separators=SEPARATORS)
BYTES = Prices(
    token={Tier.FP16: 16, Tier.INT8: 8, Tier.INT4: 4}, fixed=32, separators=16 * SEPARATORS
)


def manifest(
    difference: NDArray[np.float32] | None = None,
    saliency: NDArray[np.float32] | None = None,
    source: list[int] | None = None,
) -> Manifest:
    made = make_manifest(random_pictures(SAMPLES, GEOMETRY), GEOMETRY, source=source)
    changed = {"difference": difference, "saliency": saliency}
    given = {name: values for name, values in changed.items() if values is not None}
    return replace(made, signals=replace(made.signals, **given))


def stored(
    policy: CellPolicy, video: Manifest, prices: Prices = TOKENS, amount: int | None = None
) -> Manifest:
    unit = "bytes" if prices is BYTES else "tokens"
    budget = None if amount is None else Budget(amount=amount, unit=unit)
    return policy.choose(video, [b"png"] * SAMPLES, prices, budget)


def ramp(axis: int) -> NDArray[np.float32]:
    """0.1, 0.2, ... along samples (0) or cells (1)."""
    steps = np.indices((SAMPLES, CELLS))[axis]
    return ((steps + 1) / 10).astype(np.float32)


def test_sparse_frames_are_whole_and_evenly_spaced() -> None:
    whole = 2 + 3 * (CELLS + 1)
    video = stored(SparseFrames(), manifest(), amount=whole)
    assert np.flatnonzero(video.kept).tolist() == [0, 2, 5]
    assert (video.tier[video.kept] == Tier.FP16).all()


def test_a_rest_that_holds_no_whole_frame_goes_to_a_part_of_one() -> None:
    video = stored(SparseFrames(), manifest(), amount=2 + 2 * (CELLS + 1) + 3)
    assert sorted((video.tier == Tier.FP16).sum(axis=1).tolist()) == [0, 0, 0, 2, 4, 4]


def test_a_uniform_tier_is_every_cells_tier() -> None:
    video = stored(UniformBits(tier=Tier.INT8), manifest())
    assert (video.tier == Tier.INT8).all()


def test_token_drop_keeps_the_first_sample_and_what_changed() -> None:
    difference = np.zeros((SAMPLES, CELLS), np.float32)
    difference[3, 1] = 0.5
    video = stored(TokenDrop(), manifest(difference))
    assert np.argwhere(video.tier == Tier.FP16).tolist() == [[0, c] for c in range(4)] + [[3, 1]]


def test_token_drop_spends_a_budget_on_the_largest_changes() -> None:
    video = stored(TokenDrop(), manifest(ramp(1)), amount=2 + 5 + 4)
    assert np.argwhere(video.tier == Tier.FP16)[4:].tolist() == [[1, 3], [2, 3]]


def test_random_tokens_are_no_function_of_their_place() -> None:
    video = stored(RandomTokens(), manifest(), amount=2 + SAMPLES + 12)
    counts = (video.tier == Tier.FP16).sum(axis=0)
    assert counts.sum() >= 12
    assert 0 < (video.tier == Tier.FP16).sum(axis=1).max() <= CELLS
    assert not (video.tier[:3] == Tier.FP16).all()


def test_ours_takes_changed_samples_before_pointers() -> None:
    pointing = manifest(ramp(0), source=[0, 0, 0, 3, 3, 5])
    video = stored(SaliCache(), pointing, amount=2 + 4 * (CELLS + 1))
    assert np.flatnonzero(video.kept).tolist() == [0, 3, 4, 5]


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
    wishes = [Wish(Tier.FP16, dear), Wish(Tier.INT4, cheap)]
    tier = fill(wishes, (SAMPLES, CELLS), BYTES, Budget(amount=32 + 16 + 16 + 12, unit="bytes"))
    assert (tier == Tier.FP16).sum() == 1
    assert (tier == Tier.INT4).sum() == 0  # 12 bytes do not open another sample
    tier = fill(wishes[::-1], (SAMPLES, CELLS), BYTES, Budget(amount=32 + 16 + 28, unit="bytes"))
    assert (tier == Tier.INT4).sum() == 3


def test_a_budget_below_the_text_is_refused_with_what_the_text_takes() -> None:
    with pytest.raises(BatchError, match="which takes 3"):
        stored(RandomTokens(), manifest(), amount=2)


@pytest.mark.parametrize("amount", [0, -1])
def test_a_budget_is_at_least_one(amount: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        Budget(amount=amount, unit="tokens")


def kept(policy: SlidingWindow | StreamingLLM | H2O | SnapKV, count: int) -> list[int]:
    """Rows that stay of 40, of which 7 and 20 got attention."""
    mass = torch.zeros(1, 1, 40)
    mass[..., 7], mass[..., 20] = 3.0, 2.0
    rows: list[int] = policy.keep(mass, count)[0, 0].tolist()
    return rows


def test_a_sliding_window_keeps_the_latest_rows() -> None:
    assert kept(SlidingWindow(), 4) == [36, 37, 38, 39]


def test_streaming_keeps_four_sinks_and_the_latest_rows() -> None:
    assert kept(StreamingLLM(), 7) == [0, 1, 2, 3, 37, 38, 39]


def test_h2o_keeps_half_by_attention_and_half_recent() -> None:
    assert kept(H2O(), 4) == [7, 20, 38, 39]


def test_snapkv_keeps_its_window_and_the_neighbours_of_what_it_looked_at() -> None:
    assert kept(SnapKV(window=3), 8) == [5, 6, 7, 8, 9, 37, 38, 39]


def test_a_budget_shorter_than_the_window_keeps_its_end() -> None:
    assert kept(SnapKV(window=8), 3) == [37, 38, 39]


def test_layers_and_heads_decide_by_themselves() -> None:
    mass = torch.zeros(2, 2, 40)
    for layer in range(2):
        for head in range(2):
            mass[layer, head, 10 * layer + head] = 1.0
    rows = H2O().keep(mass, 2)
    assert rows[..., 0].tolist() == [[0, 1], [10, 11]]
