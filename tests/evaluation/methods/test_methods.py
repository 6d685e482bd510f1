"""Every method keeps its budget, holds what it is charged for, and says where it comes from."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.errors import BatchError
from batch.evaluation.methods import (
    ABLATIONS,
    DEFAULT,
    METHODS,
    CellMethod,
    Method,
    RowMethod,
)
from batch.evaluation.methods.row_method import Codec
from batch.evaluation.storing import PreparedVideo, Stored, store, store_uncompressed
from batch.settings import Limit
from batch.video import Sampling
from tests import clips, tiny
from tests.evaluation.methods.names import name
from tests.tiny.files import loaded

Hold = Callable[[Method, Limit | None], Stored]

QUESTIONS = ["what is the red star doing ?", "a b c"]
KV_BYTES = 2 * 2 * 2 * 8 * 2
"""FP16 keys and values of a token in two layers, two heads of 8 channels."""
ROW_BYTES = KV_BYTES + 4 * 4
"""Those and the token's row in four tables."""
LARGE = 10_000_000


def tokens(amount: int) -> Limit:
    return Limit(unit="tokens", amount=amount)


def size_bytes(amount: int) -> Limit:
    return Limit(unit="bytes", amount=amount)


every_method = pytest.mark.parametrize("method", METHODS, ids=name)
within_a_budget = pytest.mark.parametrize(
    "method", [method for method in METHODS if method.takes_budget], ids=name
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PreparedVideo:
    """Eight samples of 16 cells: four of a moving scene, four of a still one."""
    folder = tmp_path_factory.mktemp("methods")
    family = loaded(tiny.llava_next(folder / "model", image_px=56))
    moving = clips.moving(40, height_px=64, width_px=64, step_px=2)
    still = [moving[-1]] * 40
    prepared = PreparedVideo(
        clips.write_clip(folder / "clip.mp4", [*moving, *still]), family, Sampling()
    )
    # What one decoding took is taken off what another one and analysis took: on a busy machine all.
    prepared.decode_seconds = 1e-6
    return prepared


@pytest.fixture(scope="module")
def hold(video: PreparedVideo, tmp_path_factory: pytest.TempPathFactory) -> Hold:
    """What a method stores within a limit; each once."""
    folder = tmp_path_factory.mktemp("held")
    return cache(lambda method, limit: store(method, video, limit, folder))


@within_a_budget
def test_a_budget_of_tokens_is_met_exactly(
    method: Method, video: PreparedVideo, hold: Hold
) -> None:
    for amount in (25, 60):
        assert amount < video.full_plan.plan.slots
        assert sum(hold(method, tokens(amount)).tokens.values()) == amount


@within_a_budget
def test_a_budget_larger_than_the_video_stores_every_slot(
    method: Method, video: PreparedVideo, hold: Hold
) -> None:
    held = hold(method, size_bytes(LARGE))
    assert sum(held.tokens.values()) == video.full_plan.plan.slots


@within_a_budget
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_budget_of_bytes_is_met_to_within_a_cell_and_its_separator(
    method: Method, share: float, video: PreparedVideo, hold: Hold
) -> None:
    slots = video.full_plan.plan.slots
    empty = video.full_plan.size_bytes - slots * ROW_BYTES
    amount = int(empty + share * slots * ROW_BYTES)
    held = hold(method, size_bytes(amount))
    everything_fits = sum(held.tokens.values()) == slots
    assert held.size_bytes <= amount
    assert everything_fits or held.size_bytes > amount - 2 * ROW_BYTES


@pytest.mark.parametrize("method", [m for m in METHODS if isinstance(m, CellMethod)], ids=name)
def test_a_method_that_chooses_cells_holds_as_much_as_its_file(
    method: CellMethod, video: PreparedVideo, tmp_path: Path
) -> None:
    held = store(method, video, tokens(60) if method.needs_budget else None, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size == held.size_bytes


@pytest.mark.parametrize(
    "method", [m for m in METHODS if isinstance(m, RowMethod) and m.takes_budget], ids=name
)
def test_a_method_that_keeps_rows_is_charged_for_them_and_their_numbers(
    method: RowMethod, video: PreparedVideo, hold: Hold
) -> None:
    held = hold(method, tokens(60))
    numbers = method.number_bytes((2, 2, video.full_plan.plan.slots), 60)
    assert held.kv_bytes == 60 * KV_BYTES + numbers
    assert (numbers == 0) == method.in_file
    assert held.tokens == {"FP16": 60, "INT8": 0, "INT4": 0}


@pytest.mark.parametrize("method", [m for m in METHODS if isinstance(m, Codec)], ids=name)
def test_a_method_of_fewer_bits_takes_fewer_bytes_and_answers_much_the_same(
    method: Codec, video: PreparedVideo, hold: Hold
) -> None:
    held, own = hold(method, None), store_uncompressed(video)
    assert held.kv_bytes < 0.95 * video.full_plan.plan.slots * KV_BYTES
    expected = own.answerer.next_token_scores(QUESTIONS[0])
    got = held.answerer.next_token_scores(QUESTIONS[0])
    assert 0 < (got - expected).abs().max() < 0.5 * (expected.max() - expected.min())


@every_method
def test_a_method_is_charged_for_decoding_and_for_what_it_does(method: Method, hold: Hold) -> None:
    seconds = hold(method, tokens(60) if method.needs_budget else None).seconds
    assert seconds["decode"] > 0
    assert seconds["encode"] > 0
    assert seconds["prefill"] > 0
    assert seconds["quantise"] > 0
    assert (seconds["write"] > 0) == isinstance(method, CellMethod)
    assert (seconds["analyse"] > 0) == (isinstance(method, CellMethod) and method.reads_signals)


@within_a_budget
def test_a_method_that_keeps_every_slot_answers_as_the_model_itself(
    method: Method, video: PreparedVideo, hold: Hold
) -> None:
    own = store_uncompressed(video).answerer
    expected = torch.stack([own.next_token_scores(question) for question in QUESTIONS])
    held = hold(method, size_bytes(LARGE))
    got = torch.stack([held.answerer.next_token_scores(question) for question in QUESTIONS])
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)
    fewer = hold(method, tokens(25)).answerer
    assert (fewer.next_token_scores(QUESTIONS[0]) - expected[0]).abs().max() > 0.06


def test_the_uncompressed_model_and_caches_answer_in_turn(video: PreparedVideo, hold: Hold) -> None:
    answerers = [store_uncompressed(video).answerer, hold(DEFAULT, tokens(60)).answerer]
    first = [answerer.next_token_scores(QUESTIONS[0]) for answerer in answerers]
    again = [answerer.next_token_scores(QUESTIONS[0]) for answerer in answerers]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(*first)


@within_a_budget
def test_a_budget_that_holds_nothing_is_refused(method: Method, hold: Hold) -> None:
    with pytest.raises(BatchError, match="budget"):
        hold(method, size_bytes(100))


@every_method
def test_a_method_names_its_source(method: Method) -> None:
    assert "Source:" in (type(method).__doc__ or "")


def test_no_two_methods_have_the_same_label() -> None:
    labels = [name(method) for method in (*METHODS, *ABLATIONS[1:])]
    assert len(set(labels)) == len(labels)


def test_every_ablation_differs_from_the_default_in_more_than_its_name() -> None:
    settings = [
        (method.temporal, method.thresholds, method.positions, method.reuse) for method in ABLATIONS
    ]
    assert len(set(settings)) == len(settings)


def test_random_tokens_are_the_same_for_the_same_video(
    video: PreparedVideo, tmp_path: Path
) -> None:
    (method,) = (method for method in METHODS if method.name == "random")
    plans = [store(method, video, tokens(60), tmp_path).plan for _ in range(2)]
    first, again = (plan.manifest.tier for plan in plans if plan is not None)
    assert np.array_equal(first, again)
