"""The demo answers out of its caches as rightly as the model without compression."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch.demo.show import show


def check(found: dict[str, Any]) -> None:
    assert found["exact_match"] >= 0.9
    assert found["exact_match"] >= found["exact_match_uncompressed"]
    assert found["compression"] > 1
    assert abs(found["compression"] - found["fp16_kv_bytes"] / found["cache_bytes"]) < 1e-9
    assert sum(found["tokens"].values()) < found["slots"]


def test_one_film_is_answered_as_the_uncompressed_model_does(tmp_path: Path) -> None:
    commands: list[str] = []
    found = show(tmp_path, videos=1, samples=12, profile="default", say=commands.append).to_dict()
    assert found["questions"] >= 6
    assert [line.split()[1] for line in commands if line.startswith("batch ")] == [
        "analyze",
        "prefill",
        "answer",
    ]
    check(found)


@pytest.mark.long
def test_the_demo_answers_as_the_uncompressed_model_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batch", "demo", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["questions"] >= 20
    check(found)
