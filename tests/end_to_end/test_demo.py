"""`batch demo` answers out of its caches as rightly as the model without compression."""

import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from batch.demo import run
from batch.errors import BatchError
from tests.cli.running import batch, succeed

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of the demo says of itself; its commands run without processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_batch", run_here)
        (printed,) = succeed("demo", "--json", "--out", tmp_path_factory.mktemp("demo"))
    said: dict[str, Any] = json.loads(printed)
    return said


def run_here(*words: object, folder: Path, stdin: str = "") -> tuple[str, str]:
    with chdir(folder):
        done = batch(*words, stdin=stdin)
    assert done.exit_code == 0, done.stderr
    return done.stdout, done.stderr


def test_its_commands_are_processes_that_say_what_went_wrong(tmp_path: Path) -> None:
    assert "0.1.0" in run.run_batch("--version")[0]
    with pytest.raises(BatchError, match=r"(?s)^batch inspect failed:.*missing.safetensors"):
        run.run_batch("inspect", "missing.safetensors", folder=tmp_path)


def test_the_demo_answers_as_the_uncompressed_model_does(found: dict[str, Any]) -> None:
    assert found["questions"] >= 20
    assert found["exact_match"] >= 0.9
    assert found["exact_match"] >= found["exact_match_uncompressed"]
    assert found["compression"] > 1
    assert abs(found["compression"] - found["fp16_kv_bytes"] / found["cache_bytes"]) < 1e-9
    assert sum(found["tokens"].values()) < found["slots"]


def test_what_readme_shows_of_the_demo_is_what_it_prints(found: dict[str, Any]) -> None:
    shown = README.read_text(encoding="utf-8")
    right, full = (
        round(found[name] * found["questions"])
        for name in ("exact_match", "exact_match_uncompressed")
    )
    lines = [
        f"right      {right} of {found['questions']} from the caches, "
        f"{full} of {found['questions']} uncompressed",
        f"samples    {found['samples']}, {found['stored_samples']} stored",
        f"slots      {found['slots']}, {sum(found['tokens'].values())} stored",
    ]
    assert "".join(f"    {line}\n" for line in lines) in shown
    assert f"({found['questions']} questions, cut here)" in shown
    # How well what is left compresses goes by the last bits of sums, so by the processor.
    said = {kind: size for kind, size in re.findall(r"^ {6}(\w+) +([\d,]+) bytes$", shown, re.M)}
    whole = re.search(r"size +([\d,]+) bytes, ([\d.]+)x smaller", shown)
    assert whole is not None
    assert said.keys() == {kind for kind, size in found["bytes"].items() if size}
    for kind, size in {**said, "whole": whole[1]}.items():
        expected = {**found["bytes"], "whole": found["cache_bytes"]}[kind]
        assert int(size.replace(",", "")) == pytest.approx(expected, rel=0.02)
    assert float(whole[2]) == pytest.approx(found["compression"], rel=0.02)
