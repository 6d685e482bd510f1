"""A training that is stopped on its way and goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

Student = TypeVar("Student")
Log = Callable[[dict[str, Any]], object]


def whole_and_resumed(
    run: Callable[[Path, Log], Student], folder: Path, at: tuple[str, int]
) -> tuple[Student, Student]:
    """What a run leaves, and one that is stopped before a step of a stage is saved, and goes on."""
    steps: list[tuple[str, int]] = []

    def note(figures: dict[str, Any]) -> None:
        steps.append((figures["stage"], figures["step"]))

    def note_and_stop(figures: dict[str, Any]) -> None:
        note(figures)
        if steps[-1] == at:
            raise KeyboardInterrupt

    whole = run(folder / "whole", note)
    uninterrupted = steps.copy()
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        run(folder / "cut", note_and_stop)
    resumed = run(folder / "cut", note)
    stopped = uninterrupted.index(at)
    # What was not saved comes again.
    assert steps == [*uninterrupted[: stopped + 1], *uninterrupted[stopped:]]
    return whole, resumed
