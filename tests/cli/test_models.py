"""`batch models` lists the families, and of which transformers the tests speak."""

from pathlib import Path

import pytest
import transformers

from batch.families import KNOWN_FAMILIES, PARITY_TRANSFORMERS
from batch.models import FAMILIES
from tests.cli.running import batch, objects, succeed


def test_a_row_a_family_says_its_limits_and_that_it_is_tested() -> None:
    rows = objects(succeed("models", "--json"))
    assert [row["family"] for row in rows] == sorted(FAMILIES)
    for row, line in zip(rows, succeed("models"), strict=True):
        assert list(row) == ["family", "checkpoint", "parity_tested", "transformers", "limits"]
        assert (row["parity_tested"], row["transformers"]) == (True, PARITY_TRANSFORMERS)
        known = KNOWN_FAMILIES[row["family"]]
        assert (row["limits"], row["checkpoint"]) == (known.limits, known.checkpoint)
        assert line.split(";")[0].split() == [row["family"], row["checkpoint"]]
        assert f"parity tested with transformers {PARITY_TRANSFORMERS}; {row['limits']}" in line


def test_the_version_of_parity_is_the_one_the_tests_run_with() -> None:
    assert transformers.__version__ == PARITY_TRANSFORMERS


def test_another_transformers_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "installed" not in batch("models").stderr
    installed = tmp_path / "transformers-9.9.9.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 9.9.9\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "transformers 9.9.9 is installed" in batch("models").stderr
