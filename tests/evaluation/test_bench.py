"""The bench program measures what it says, on any size, and prints stable JSON."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForImageTextToText

from batch.cli import main
from batch.evaluation.bench import tiers
from batch.evaluation.bench.measuring import peak_allocated, ratio, side_by_side
from batch.evaluation.bench.sizes import SIZES, Size
from batch.models import Family, open_family
from tests import tiny
from tests.manifests import geometry_of


def open_tiny(folder: Path) -> Family:
    return open_family(str(tiny.llava_next(folder / "model")))


TINY = Size(
    name="tiny",
    about="a random model",
    open=open_tiny,
    films=2,
    samples=4,
    answer_tokens=2,
    rows=48,
    load_tokens=64,
    lengths=(1, 3),
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the command prints of a tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "demo", TINY)
        done = CliRunner().invoke(main, ["bench", "--size", "demo", "--repeats", "2", "--json"])
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_ratio_is_measured_and_its_circumstances_are_told(found: dict[str, Any]) -> None:
    assert set(found["ratios"]["tiny"]) == set(tiers.RATIOS)
    assert all(value > 0 for value in found["ratios"]["tiny"].values())
    assert found["suite"] == "tiers"
    assert found["repeats"] == 2
    assert found["machine"]["cores"] >= 1
    assert {"python", "torch", "transformers"} <= set(found["versions"])
    figures = found["figures"]["tiny"]
    assert figures["samples"] == TINY.samples
    assert len(figures["timing"]["compressed_seconds"]) == 2
    assert figures["lengths"]["samples"] == [TINY.samples, 3 * TINY.samples]


def test_the_report_names_every_ratio(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "run_tiers", lambda sizes, **how: found)
    done = CliRunner().invoke(main, ["bench", "--size", "demo", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    named = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert set(tiers.RATIOS) <= named


def test_the_large_size_has_the_published_decoder(tmp_path: Path) -> None:
    family = SIZES["0.5b"].open(tmp_path)
    shape = family.decoder
    assert (shape.layers, shape.heads, shape.head_dim, shape.context) == (24, 2, 64, 32_768)
    assert family.config.get_text_config(decoder=True).num_attention_heads == 14
    assert not family.is_loaded


def test_the_gpu_size_is_llava_mistral_7b(tmp_path: Path) -> None:
    family = SIZES["7b"].open(tmp_path)
    shape, text = family.decoder, family.config.get_text_config(decoder=True)
    assert (shape.layers, shape.heads, shape.head_dim, shape.context) == (32, 8, 128, 32_768)
    assert (text.num_attention_heads, text.hidden_size, text.intermediate_size) == (32, 4096, 14336)
    assert geometry_of(family).cells == 24 * 24
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(family.config)
    assert 7.4e9 < sum(weights.numel() for weights in model.parameters()) < 7.7e9


def test_the_gpu_size_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, ["bench", "--size", "7b"])
    assert done.exit_code == 1
    assert "size 7b is measured on a GPU, and torch" in done.stderr
    assert "batch bench --size demo --size 0.5b" in done.stderr


@pytest.mark.needs_gpu
def test_a_size_runs_on_a_gpu(tmp_path: Path) -> None:
    size = replace(TINY, device="cuda", dtype="bfloat16")
    measured = tiers.measure_tiers(size, tmp_path, 2, lambda line: None)
    assert set(measured.ratios) == set(tiers.RATIOS)
    assert all(value > 0 for value in measured.ratios.values())


def test_works_run_in_turn() -> None:
    order: list[str] = []
    taken = side_by_side({name: lambda name=name: order.append(name) for name in "ab"}, 2)  # type: ignore[misc]
    assert order == ["a", "b", "a", "b"]
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}


def test_the_ratio_is_the_median_of_each_repeats_own() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_the_peak_counts_what_is_held_at_one_time() -> None:
    def one_after_another() -> None:
        for _ in range(3):
            torch.ones(1 << 20)

    def together() -> list[torch.Tensor]:
        return [torch.ones(1 << 20) for _ in range(3)]

    megabytes = 4 << 20
    assert megabytes <= peak_allocated(one_after_another) < 1.1 * megabytes
    assert 3 * megabytes <= peak_allocated(together) < 3.1 * megabytes
