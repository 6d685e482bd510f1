"""Budgets of a video, as they are asked for, kept and told."""

from pathlib import Path

import pytest

from tests import clips
from tests.cli.running import batch, objects, succeed


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds in which something moves all the time."""
    frames = clips.moving(80, height_px=48, width_px=64, step_px=1)
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "moving.mp4", list(frames))


def test_a_budget_of_tokens_is_kept_and_told(moving: Path, model: Path, tmp_path: Path) -> None:
    words = ("prefill", moving, "--out", tmp_path, "--model", model, "--reuse", "cells")
    (free,) = objects(succeed(*words, "--dry-run", "--json"))
    budget = ("--budget-tokens", "60%")
    (planned,) = objects(succeed(*words, *budget, "--dry-run", "--json"))
    assert planned["computed"] <= 0.6 * planned["slots"] < free["computed"]
    assert planned["threshold_scale"] > 1 == free["threshold_scale"]
    raised = f"thresholds of change {planned['threshold_scale']:.2f} times as high"
    assert raised in succeed(*words, *budget, "--dry-run")[0]
    (made,) = objects(succeed(*words, *budget, "--json"))
    assert made["computed"] == planned["computed"]
    cache = tmp_path / "moving.safetensors"
    assert f"policy     default, at most 60% tokens computed, {raised}" in succeed("inspect", cache)
    assert "whole; KL 0" in succeed("verify", "--fidelity", cache)[0]
    assert objects(succeed(*words, *budget, "--json"))[0]["skipped"]
    assert "budget_tokens: got 60%, expected 70%" in batch(*words, "--budget-tokens", "70%").stderr
    refused = batch(*words, "--budget-tokens", 5)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--budget-tokens 5 allows 5. Allow more" in refused.stderr


def test_a_file_of_a_budget_is_the_finest_that_keeps_it(
    moving: Path, model: Path, tmp_path: Path
) -> None:
    words = ("prefill", moving, "--model", model, "--json", "--out")
    sizes = {}
    for quality in ("high", "standard", "small"):
        (made,) = objects(succeed(*words, tmp_path / quality, "--quality", quality))
        sizes[made["step"]] = made["size_bytes"]
    minutes = 8 / 60
    fine, middle, _ = sizes
    within = (*words, tmp_path / "within", "--budget-bytes-per-minute")
    (made,) = objects(succeed(*within, int(sizes[middle] / minutes * 1.02) + 1))
    assert (made["step"], made["quality"]) == (middle, "custom")
    assert made["size_bytes"] <= 1.02 * sizes[middle] + 1 < sizes[fine]
    (kept,) = objects(succeed("inspect", tmp_path / "within" / "moving.safetensors", "--json"))
    assert kept["bytes_per_minute"] == round(made["size_bytes"] / minutes)
    (planned,) = objects(succeed(*within, "9K", "--dry-run"))
    assert planned["size_bytes"] == int(9_000 * minutes)
    refused = batch(*within, "1K", "--force")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "at the coarsest step its file has " in refused.stderr
    assert ", expected at most 133, " in refused.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--budget-tokens", "much"), "got 'much', expected a number like 784 or a share"),
        (("--budget-bytes-per-minute", "1Q"), "expected a size like 500G"),
        (
            ("--budget-bytes-per-minute", "1M", "--max-kl", 1),
            "--max-kl and --budget-bytes-per-minute: give one of them",
        ),
    ],
)
def test_a_budget_that_says_nothing_or_too_much_is_wrong_usage(
    moving: Path, options: tuple[object, ...], error: str
) -> None:
    result = batch("prefill", moving, "--out", "x", "--model", "demo", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
