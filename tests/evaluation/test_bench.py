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
from batch.evaluation.bench.report import RATIOS, report
from batch.evaluation.bench.tiers import measure_size
from batch.evaluation.bench.workload import SIZES, Size
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
    assert set(found["ratios"]["tiny"]) == set(RATIOS)
    assert all(value > 0 for value in found["ratios"]["tiny"].values())
    assert found["suite"] == "tiers"
    assert found["repeats"] == 2
    assert found["machine"]["cores"] >= 1
    assert {"python", "torch", "transformers"} <= set(found["versions"])
    figures = found["figures"]["tiny"]
    assert figures["samples"] == TINY.samples
    assert len(figures["timing"]["compressed_seconds"]) == 2
    assert figures["lengths"]["samples"] == [TINY.samples, 3 * TINY.samples]


def test_the_report_names_every_ratio(found: dict[str, Any]) -> None:
    assert set(RATIOS) <= {line.split()[0] for line in report(found) if line}


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
    ratios, _ = measure_size(size, tmp_path, 2, lambda line: None)
    assert set(ratios) == set(RATIOS)
    assert all(value > 0 for value in ratios.values())
