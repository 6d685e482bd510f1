"""The bench program measures what it says, on any size, and prints stable JSON."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForImageTextToText

from batch.cli import main
from batch.evaluation.bench import answering, counting
from batch.evaluation.bench.attention import measure_few_queries
from batch.evaluation.bench.report import MEASUREMENTS, PARTS, RATIOS, report
from batch.evaluation.bench.tiers import MEASURE_BY_NAME, measure_size
from batch.evaluation.bench.workload import SIZES, Size, Workload
from batch.evaluation.launches import Launches
from batch.models import Family, open_family
from batch.settings import ModelSettings
from cachefmt.tiers import STORED_TIERS
from tests import tiny
from tests.manifests import geometry_of


def counts(work: object, layers: tuple[int, ...], kernel: str) -> list[dict[str, Launches]]:
    """As if `count_steps` had counted that in a process of its own, where kernels are interpreted.

    tests/evaluation/test_bench_processes.py lets it count.
    """
    steps = {"step": 9, "plain_step": 8}
    return [{name: Launches(each * one, 0, 0) for name, each in steps.items()} for one in layers]


def open_tiny(folder: Path) -> Family:
    return open_family(str(tiny.llava_next(folder / "model")))


TINY = Size(
    name="tiny",
    about="a random model",
    open=open_tiny,
    films=2,
    samples=4,
    long_samples=6,
    answer_tokens=2,
    rows=48,
    load_tokens=64,
    lengths=(1, 3),
)


STEPS = ("decode_step", "decode_step_uncompressed", "question_steps")


class Printed(dict[str, Any]):
    """What the command prints of a tiny model, and what it says meanwhile."""

    log: list[str]


def bench(*words: str) -> Printed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "demo", TINY)
        patch.setattr(counting, "in_new_process", counts)
        patch.setattr(answering, "QUESTIONS", 8)
        command = ["bench", "--size", "demo", "--repeats", "1", "--device", "cpu", "--json", *words]
        done = CliRunner().invoke(main, command)
        counting.count_steps.cache_clear()  # others are to count
    assert done.exit_code == 0, done.output
    printed = Printed(json.loads(done.stdout))
    printed.log = [line.strip() for line in done.stderr.splitlines()]
    return printed


@pytest.fixture(scope="module")
def found() -> Printed:
    return bench()


def test_every_ratio_is_measured_and_its_circumstances_are_told(found: Printed) -> None:
    assert set(found["ratios"]["tiny"]) == set(RATIOS)
    values = found["ratios"]["tiny"]
    # Decode steps are told from two answers: beside other work one of so tiny a model may be < 0.
    assert all(values[name] > 0 for name in RATIOS if not name.endswith(STEPS))
    assert all(math.isfinite(value) for value in values.values())
    assert found["suite"] == "tiers"
    assert found["repeats"] == 1
    assert found["machine"]["cores"] >= 1
    assert found["load_after_1min"] >= 0
    assert {"python", "torch", "transformers"} <= set(found["versions"])
    figures = found["figures"]["tiny"]
    assert (figures["device"], figures["samples"]) == ("cpu", TINY.samples)
    timing = figures["timing"]
    (whole,) = timing["compressed_seconds"]
    assert whole / 2 < sum(timing[part][0] for part in PARTS) <= whole
    (shares,) = (line for line in report(found) if line.startswith("  timing: "))
    assert f"vision tower {timing['encode_seconds'][0] / whole:.1%}" in shares
    assert figures["lengths"]["samples"] == [TINY.samples, 3 * TINY.samples]
    assert set(figures["other_work"]) == set(RATIOS)


def test_a_ratio_is_said_as_soon_as_it_is_known(found: Printed) -> None:
    said = [line.split()[1] for line in found.log if line.startswith("tiny: ")]
    order = [word for word in said if word in RATIOS]
    assert order == [ratio for name in MEASURE_BY_NAME for ratio in MEASUREMENTS[name]]
    value = found["ratios"]["tiny"]["decode_step"]
    assert f"tiny: decode_step {value:.3f}" in found.log


def test_the_measurements_of_the_help_are_those_that_there_are() -> None:
    assert set(MEASURE_BY_NAME) == set(MEASUREMENTS)
    shown = CliRunner().invoke(main, ["bench", "--help"]).stdout
    assert all(name in shown for name in MEASUREMENTS)


def test_only_what_is_asked_for_is_measured() -> None:
    found = bench("--only", "loading", "--only", "questions", "--dtype", "bfloat16")
    assert set(found["ratios"]["tiny"]) == {*MEASUREMENTS["loading"], *MEASUREMENTS["questions"]}
    assert found["figures"]["tiny"]["dtype"] == "bfloat16"
    lines = [line.split()[0] for line in report(found) if line]
    assert "load_rate" in lines
    assert "decode_step" not in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "everything"], "'everything' is not one of 'timing'"),
        (["--suite", "archive", "--only", "timing"], "--only goes with --suite tiers"),
        (["--suite", "long", "--device", "cpu"], "--device goes with --suite tiers"),
    ],
)
def test_what_cannot_be_measured_is_wrong_usage(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["bench", *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_report_names_every_ratio(found: Printed) -> None:
    assert set(RATIOS) <= {line.split()[0] for line in report(found) if line}


@pytest.mark.parametrize(("share", "mark"), [(0.0, " "), (0.5, "~"), (None, "~")])
def test_a_time_beside_other_work_is_not_called_quiet(
    found: Printed, share: float | None, mark: str
) -> None:
    found["figures"]["tiny"]["other_work"] = dict.fromkeys(RATIOS, 0.0) | {"load_rate": share}
    lines = list(report(found))
    (line,) = (line for line in lines if line.startswith("load_rate "))
    value = found["ratios"]["tiny"]["load_rate"]
    assert line.startswith(f"load_rate                 {value:10.3f}{mark} ")
    assert sum(line.startswith("~") for line in lines) == (mark == "~")


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
    assert "size 7b is measured on a GPU, got cpu" in done.stderr
    assert "batch bench --size demo --size 0.5b" in done.stderr


def test_attention_of_few_queries_is_timed_over_rows_of_every_tier(tmp_path: Path) -> None:
    workload = Workload(TINY, tmp_path, ModelSettings(device="cpu"))
    workload.compress(workload.films[0])
    found = measure_few_queries(workload, 1, (48,))
    assert [(row["tier"], row["queries"]) for row in found] == [
        (tier.name, queries) for tier in STORED_TIERS for queries in (1, 24)
    ]
    assert all(row["tiered_ms"] > 0 and row["sdpa_ms"] > 0 for row in found)
    read = found[0]["gb_per_s"] * 1e9 * found[0]["tiered_ms"] / 1e3
    assert read == pytest.approx(2 * 48 * 2 * 8 * 2)  # K and V of 2 heads x 8 channels in 16 bits


@pytest.mark.needs_gpu
def test_a_size_runs_on_a_gpu(tmp_path: Path) -> None:
    where = ModelSettings(device="cuda")
    ratios, figures = measure_size(TINY, tmp_path, 2, lambda line: None, where=where)
    assert set(ratios) == set(RATIOS)
    assert all(value > 0 for value in ratios.values())
    assert (figures["device"], figures["dtype"]) == ("cuda", "bfloat16")
    assert all(row["gb_per_s"] > 0 for row in figures["attention"]["few_queries"])
