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
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.sali_cache import SaliCache
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.sparse_frames import SparseFrames
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
    "h2o": (4, [7, 20, 38, 39]),
    "snapkv": (35, [5, 6, 7, *range(8, 40)]),
}
"""How many rows may stay, and which do, where 7 got the most attention and 20 the next."""


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


def kept(method: RowMethod, count: int) -> list[int]:
    mass = torch.zeros(1, 1, 40)
    mass[..., 7], mass[..., 20] = 3.0, 2.0
    rows: list[int] = method.keep(mass, count)[0, 0].tolist()
    return rows


def ramp(axis: int) -> NDArray[np.float32]:
    """0.1, 0.2, ... along samples (0) or cells (1)."""
    steps = np.indices((SAMPLES, CELLS))[axis]
    return ((steps + 1) / 10).astype(np.float32)


CELL_METHODS = [method for method in METHODS if isinstance(method, CellMethod)]
ROW_METHODS = [method for method in METHODS if isinstance(method, RowMethod)]


@pytest.mark.parametrize("method", [m for m in CELL_METHODS if not m.needs_budget], ids=name)
def test_a_method_as_it_is_stores_the_cells_it_is_known_to(method: CellMethod) -> None:
    assert drawn(stored(method, known_video())) == AS_IT_IS[name(method)]


@pytest.mark.parametrize("method", [m for m in CELL_METHODS if m.takes_budget], ids=name)
def test_a_method_spends_a_budget_on_the_cells_it_is_known_to(method: CellMethod) -> None:
    assert drawn(stored(method, known_video(), amount=19)) == WITHIN_19_TOKENS[name(method)]


@pytest.mark.parametrize("method", ROW_METHODS, ids=name)
def test_a_method_keeps_the_rows_it_is_known_to(method: RowMethod) -> None:
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
    assert kept(SnapKV(observed_queries=3), 8) == [5, 6, 7, 8, 9, 37, 38, 39]


def test_a_budget_shorter_than_the_window_keeps_its_end() -> None:
    assert kept(SnapKV(observed_queries=8), 3) == [37, 38, 39]


def test_layers_and_heads_decide_by_themselves() -> None:
    mass = torch.zeros(2, 2, 40)
    for layer in range(2):
        for head in range(2):
            mass[layer, head, 10 * layer + head] = 1.0
    rows = H2O().keep(mass, 2)
    assert rows[..., 0].tolist() == [[0, 1], [10, 11]]
