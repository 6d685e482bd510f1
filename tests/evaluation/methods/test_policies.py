"""Every method keeps its budget, and says where it comes from."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from batch.errors import BatchError
from batch.evaluation.budgets import Limit
from batch.evaluation.methods import ABLATIONS, METHODS, CellPolicy, Policy, RowPolicy, Unit
from batch.evaluation.store import store, store_uncompressed
from batch.evaluation.viewing import Viewing
from batch.models import Family, open_family
from batch.video import Sampling
from tests import clips, tiny

QUESTIONS = ["what is the red star doing ?", "a b c"]
ROW_BYTES = 2 * 2 * 2 * 8 * 2 + 4 * 4
"""FP16 keys and values of a token in two layers, two heads of 8 channels, and its tables."""


def name(policy: Policy) -> str:
    return f"{policy.name} {policy.profile or ''}".strip()


every_method = pytest.mark.parametrize("policy", METHODS, ids=name)
under_a_budget = pytest.mark.parametrize(
    "policy", [policy for policy in METHODS if policy.takes_budget], ids=name
)


@pytest.fixture(scope="module")
def viewing(tmp_path_factory: pytest.TempPathFactory) -> Viewing:
    """Eight samples of 16 cells: four of a moving scene, four of a still one."""
    folder = tmp_path_factory.mktemp("policies")
    family: Family = open_family(str(tiny.llava_next(folder / "model", image_px=56)))
    family.load(device="cpu", dtype=torch.float32)
    moving = clips.moving(40, height_px=64, width_px=64, step_px=2)
    still = [moving[-1]] * 40
    path = clips.write_clip(folder / "clip.mp4", [*moving, *still])
    return Viewing(path, family, Sampling())


@under_a_budget
@pytest.mark.parametrize("amount", [25, 60, 100])
def test_a_budget_of_tokens_is_met_exactly(
    policy: Policy, amount: int, viewing: Viewing, tmp_path: Path
) -> None:
    assert amount < viewing.everything.plan.slots
    held = store(policy, viewing, Limit(unit="tokens", amount=amount), tmp_path)
    assert sum(held.tokens.values()) == amount


@under_a_budget
@pytest.mark.parametrize("unit", get_args(Unit))
def test_a_budget_larger_than_the_video_stores_every_slot(
    policy: Policy, unit: Unit, viewing: Viewing, tmp_path: Path
) -> None:
    held = store(policy, viewing, Limit(unit=unit, amount=10_000_000), tmp_path)
    assert sum(held.tokens.values()) == viewing.everything.plan.slots


@under_a_budget
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_of_bytes_is_met_to_within_a_cell_and_its_separator(
    policy: Policy, share: float, viewing: Viewing, tmp_path: Path
) -> None:
    empty = viewing.everything.size_bytes - viewing.everything.plan.slots * ROW_BYTES
    amount = int(empty + share * viewing.everything.plan.slots * ROW_BYTES)
    held = store(policy, viewing, Limit(unit="bytes", amount=amount), tmp_path)
    everything_fits = sum(held.tokens.values()) == viewing.everything.plan.slots
    assert held.size_bytes <= amount
    assert everything_fits or held.size_bytes > amount - 2 * ROW_BYTES


@every_method
def test_what_a_method_with_a_file_holds_is_as_large_as_its_file(
    policy: Policy, viewing: Viewing, tmp_path: Path
) -> None:
    if isinstance(policy, CellPolicy):
        limit = Limit(unit="tokens", amount=60) if policy.needs_budget else None
        held = store(policy, viewing, limit, tmp_path)
        (file,) = tmp_path.glob("*.safetensors")
        assert file.stat().st_size == held.size_bytes


@every_method
def test_a_method_is_charged_for_decoding_and_for_what_it_does(
    policy: Policy, viewing: Viewing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What one decoding took is taken off what another one and analysis took: on a busy machine all.
    monkeypatch.setattr(viewing, "decode_seconds", 1e-6)
    limit = Limit(unit="tokens", amount=60) if policy.needs_budget else None
    seconds = store(policy, viewing, limit, tmp_path).seconds
    assert seconds["decode"] > 0
    assert seconds["encode"] > 0
    assert seconds["prefill"] > 0
    assert seconds["quantise"] > 0
    assert (seconds["write"] > 0) == isinstance(policy, CellPolicy)
    assert (seconds["analyse"] > 0) == (isinstance(policy, CellPolicy) and policy.reads_signals)


@under_a_budget
def test_a_method_that_keeps_everything_in_fp16_answers_as_the_model_itself(
    policy: Policy, viewing: Viewing, tmp_path: Path
) -> None:
    own = store_uncompressed(viewing).answerer
    expected = torch.stack([own.next_token_scores(question) for question in QUESTIONS])
    held = store(policy, viewing, Limit(unit="bytes", amount=10_000_000), tmp_path)
    got = torch.stack([held.answerer.next_token_scores(question) for question in QUESTIONS])
    if held.tokens["FP16"] == viewing.everything.plan.slots:
        torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)
    fewer = store(policy, viewing, Limit(unit="tokens", amount=25), tmp_path).answerer
    assert (fewer.next_token_scores(QUESTIONS[0]) - expected[0]).abs().max() > 5e-2


@under_a_budget
def test_a_budget_that_holds_nothing_is_refused(
    policy: Policy, viewing: Viewing, tmp_path: Path
) -> None:
    with pytest.raises(BatchError, match="budget"):
        store(policy, viewing, Limit(unit="bytes", amount=100), tmp_path)


@pytest.mark.parametrize("policy", [p for p in METHODS if isinstance(p, RowPolicy)], ids=name)
def test_kept_rows_are_in_order_and_each_is_there_once(policy: RowPolicy) -> None:
    mass = torch.rand(3, 2, 50)
    kept = policy.keep(mass, 20)
    assert kept.shape == (3, 2, 20)
    assert bool((kept.diff() > 0).all())
    assert int(kept.min()) >= 0
    assert int(kept.max()) < 50


@every_method
def test_a_method_names_its_source(policy: Policy) -> None:
    assert "Source:" in (type(policy).__doc__ or "")


def test_no_two_methods_have_the_same_label() -> None:
    labels = [name(policy) for policy in (*METHODS, *ABLATIONS[1:])]
    assert len(set(labels)) == len(labels)


def test_every_ablation_differs_from_the_default_in_more_than_its_name() -> None:
    settings = [
        (policy.temporal, policy.thresholds, policy.positions, policy.pointers)
        for policy in ABLATIONS
    ]
    assert len(set(settings)) == len(settings)


def test_random_tokens_are_the_same_for_the_same_video(viewing: Viewing, tmp_path: Path) -> None:
    (policy,) = (policy for policy in METHODS if policy.name == "random")
    limit = Limit(unit="tokens", amount=60)
    tiers = []
    for _ in range(2):
        work = store(policy, viewing, limit, tmp_path).work
        assert work is not None
        tiers.append(work.manifest.tier)
    assert np.array_equal(*tiers)
