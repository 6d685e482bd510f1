"""`batch demo` answers out of its caches as rightly as the model without compression."""

import json
import subprocess
import sys


def test_the_demo_answers_as_the_uncompressed_model_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batch", "demo", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["questions"] >= 20
    assert found["exact_match"] >= 0.9
    assert found["exact_match"] >= found["exact_match_uncompressed"]
    assert found["compression"] > 1
    assert abs(found["compression"] - found["fp16_kv_bytes"] / found["cache_bytes"]) < 1e-9
    assert sum(found["tokens"].values()) < found["slots"]
