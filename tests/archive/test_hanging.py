"""A process that hangs costs its video; one that is only slow costs nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.archive import index
from batch.errors import Reason
from tests.archive import faulty
from tests.archive.contents import catalogue, status_by_name
from tests.cli.running import batch

MakeHandler = Callable[..., Callable[[Any], Any]]
PATIENCE_S = 3.0


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("making", "handler", "patience"),
    [
        ("make_video_handler", faulty.make_probe_that_hangs, "STUCK_VIDEO_S"),
        ("make_video_handler", faulty.make_decoder_that_hangs, "STUCK_VIDEO_S"),
        ("make_model_handler", faulty.make_model_that_hangs, "STUCK_MODEL_S"),
    ],
)
def test_a_process_that_hangs_is_ended_and_costs_its_video_only(
    archive: Path,
    model: Path,
    fresh_out: Path,
    monkeypatch: pytest.MonkeyPatch,
    making: str,
    handler: MakeHandler,
    patience: str,
) -> None:
    monkeypatch.setattr(index, making, handler)
    monkeypatch.setattr(index, patience, PATIENCE_S)
    result = batch("index", archive, "--out", fresh_out, "--model", model)
    status = status_by_name(fresh_out)
    assert result.exit_code == 3
    assert status["b.mkv"] == ("failed", Reason.WORKER_STUCK.value)
    assert status["a.mp4"] == status["no suffix"] == ("done", None)
    assert f"error: {archive}/2024/trip/b.mkv: " in result.stderr
    assert f"made no progress for {PATIENCE_S:.0f} s and was killed" in result.stderr
    assert [path.name for path in (fresh_out / "runs").iterdir()] == [".lock"]


@pytest.mark.usefixtures("light")
def test_a_video_whose_frames_keep_coming_may_take_longer_than_a_stuck_one(
    archive: Path, model: Path, fresh_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "make_video_handler", faulty.make_decoder_that_takes_its_time)
    monkeypatch.setattr(index, "STUCK_VIDEO_S", PATIENCE_S)
    result = batch("index", archive, "--out", fresh_out, "--model", model)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)
    assert all(row["analyze_seconds"] > PATIENCE_S + 1 for row in catalogue(fresh_out))
