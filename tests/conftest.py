"""Rules for every test: the same seeds, no unexpected error log, GPU tests skipped aloud."""

import gc
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

# Read when torch is imported, here and in all processes that tests start. On tiny models a second
# thread only waits, and takes its core from another worker's test.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A model that a person has named for every command is none that tests mean.
os.environ.pop("SALI_MODEL", None)
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"

# As commands have it without a terminal; read when transformers is imported.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import pytest
from hypothesis import settings

from jobs import workers
from tests.shared import once

SEED = 20_261_120
NO_GPU = "needs CUDA, and torch sees none"

# No deadline: a busy machine is not a failure. The same examples every run, on every machine.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# Thousands of files are synced or written over, for each of which one waits 10 ms for a disk; where
# there is room, they lie in memory. Read by pytest when it makes its first folder.
IN_MEMORY = Path("/dev/shm")
if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

# A shell without job control starts what runs in the background deaf to Ctrl-C, its children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a worker process with a model imports, six seconds of it; and none of it starts a thread.
multiprocessing.set_forkserver_preload(["batch.archive.prefilling", "tests.archive.handlers"])
STARTED_ANEW = Path(__file__).parent / "jobs"
"""Tests of how the product starts its workers; tests/end_to_end has whole commands besides."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fork workers from a process that has imported what they need, but where they are tested."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and not item.path.is_relative_to(STARTED_ANEW):
            patch.setattr(workers, "_CONTEXT", multiprocessing.get_context("forkserver"))
        return (yield)


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what comes from now on, not at 400,000 objects of torch
    and transformers each time, which took a seventh of the seconds of tests.
    """
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_gpu") is None:
        return
    import torch

    if torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_GPU") == "1":
        pytest.fail(f"FAIL_WITHOUT_GPU=1: {NO_GPU}", pytrace=False)
    pytest.skip(NO_GPU)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from one seed, whatever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:  # else torch starts from a seed of its own, always the same
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA-1.6, the same for all workers; not to be written to."""
    from tests import tiny  # torch, which not every test needs

    return once(tmp_path_factory, "model", lambda root: tiny.llava_next(root / "tiny")) / "tiny"


class _Errors(logging.Handler):
    """Collects what is logged at ERROR or above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def no_unexpected_error_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logs an ERROR, unless it is marked `logs_errors`."""
    errors = _Errors()
    # transformers 5.23 keeps its records from the root logger.
    loggers = [logging.getLogger(), logging.getLogger("transformers")]
    for logger in loggers:
        logger.addHandler(errors)
    yield
    for logger in loggers:
        logger.removeHandler(errors)
    if errors.messages and request.node.get_closest_marker("logs_errors") is None:
        pytest.fail("logged at ERROR:\n" + "\n".join(errors.messages), pytrace=False)
