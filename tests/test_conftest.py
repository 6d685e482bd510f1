"""The rules of conftest.py, tried on small test files."""

from pathlib import Path

import pytest
import torch

pytest_plugins = ["pytester"]

GPU_TEST = "import pytest\n@pytest.mark.needs_gpu\ndef test_gpu(): pass\n"
LOGGING_TEST = (
    "import logging, pytest\n{mark}\ndef test_log(): logging.getLogger('{name}').error('ouch')\n"
)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    needs_gpu\n    logs_errors\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("FAIL_WITHOUT_GPU", raising=False)
    return pytester


def test_a_gpu_test_is_skipped_without_a_gpu(suite: pytest.Pytester) -> None:
    suite.makepyfile(GPU_TEST)
    suite.runpytest_inprocess().assert_outcomes(skipped=1)


def test_a_gpu_test_fails_without_a_gpu_where_one_is_promised(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_WITHOUT_GPU", "1")
    suite.makepyfile(GPU_TEST)
    suite.runpytest_inprocess().assert_outcomes(errors=1)


def test_a_gpu_test_runs_with_a_gpu(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    suite.makepyfile(GPU_TEST)
    suite.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.logs_errors
@pytest.mark.parametrize("name", ["batch.somewhere", "transformers.somewhere"])
def test_an_unexpected_error_log_fails_a_test(suite: pytest.Pytester, name: str) -> None:
    suite.makepyfile(LOGGING_TEST.format(mark="", name=name))
    suite.runpytest_inprocess().assert_outcomes(passed=1, errors=1)


@pytest.mark.logs_errors
def test_an_error_log_that_is_meant_passes(suite: pytest.Pytester) -> None:
    suite.makepyfile(LOGGING_TEST.format(mark="@pytest.mark.logs_errors", name="x"))
    suite.runpytest_inprocess().assert_outcomes(passed=1)
