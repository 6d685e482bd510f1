"""`batch models` tells what the tests have shown, and of which transformers."""

import ast
import importlib.metadata
import re
from pathlib import Path

import pytest
import transformers

from batch.models import FAMILIES
from batch.models.tested import PARITY_TESTED, TRANSFORMERS
from tests.cli.running import batch, objects, succeed

ROOT = Path(__file__).parents[2]
SCORES = {"test_scores_equal_transformers_own", "test_logits_equal_transformers_own_forward"}


def has_parity_test(family: str) -> bool:
    file = ROOT / "tests" / "models" / f"test_{family}.py"
    names = {node.name for node in ast.parse(file.read_text()).body if hasattr(node, "name")}
    return bool(names & SCORES)


def test_a_row_a_family_says_what_the_tests_hold_it_to() -> None:
    rows = objects(succeed("models", "--json"))
    assert [row["family"] for row in rows] == sorted(FAMILIES)
    for row in rows:
        assert list(row) == ["family", "parity_tested", "transformers", "limits"]
        assert row["parity_tested"] == has_parity_test(row["family"])
        assert row["limits"] == FAMILIES[row["family"]].limits


def test_the_version_of_parity_is_the_one_the_tests_run_with() -> None:
    pinned = re.search(r"^transformers==(.*)$", (ROOT / ".ci/constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert pinned[1] == transformers.__version__ == TRANSFORMERS


def test_what_is_not_tested_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for line in succeed("models") if line.startswith("llava_next ")]
    assert f"parity tested with transformers {TRANSFORMERS}; the base image alone" in line
    monkeypatch.setattr("batch.models.tested.PARITY_TESTED", PARITY_TESTED - {"llava_next"})
    (line,) = [line for line in succeed("models") if line.startswith("llava_next ")]
    assert "not tested; the base image alone" in line


def test_another_transformers_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch("models").stderr == ""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    assert "transformers 9.9.9 is installed" in batch("models").stderr
